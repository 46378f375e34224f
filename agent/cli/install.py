"""`meshnode install` and `meshnode upgrade`: manifests for a cluster, on standard output."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from agent.cli.output.exits import Exit
from mesh.errors import ConfigError
from mesh.model.names import SYSTEM_NAMESPACE

if TYPE_CHECKING:
    from installer.live import Live
    from installer.settings import Json

Command = TypeVar("Command", bound=Callable[..., object])


def _values_options(command: Command) -> Command:
    for option in (
        click.option(
            "--values",
            "files",
            multiple=True,
            metavar="FILE",
            help="YAML with values, as Helm reads it.",
        ),
        click.option(
            "--set",
            "sets",
            multiple=True,
            metavar="NAME=VALUE",
            help="One value; docs/install.md lists them. May be repeated.",
        ),
        namespace_option,
    ):
        command = option(command)
    return command


def namespace_option(command: Command) -> Command:
    """`--namespace NAME`."""
    option = click.option(
        "--namespace",
        default=SYSTEM_NAMESPACE,
        show_default=True,
        metavar="NAME",
        help="Where meshnode is installed.",
    )
    return option(command)


def kubeconfig_option(command: Command) -> Command:
    """`--kubeconfig FILE`."""
    option = click.option(
        "--kubeconfig",
        envvar="KUBECONFIG",
        metavar="FILE",
        help="How to reach the cluster. Default: KUBECONFIG, else ~/.kube/config.",
    )
    return option(command)


@click.command()
@_values_options
def install(namespace: str, sets: Sequence[str], files: Sequence[str]) -> None:
    """Print everything a cluster needs, as YAML.

    Nothing is changed: `meshnode install | kubectl apply -f -`.
    """
    from installer.render import install_text
    from installer.settings import defaults
    from installer.values import Given

    values = {**defaults(), **_changes(sets, files)}
    click.echo(install_text(Given(namespace=namespace, values=values)), nl=False)


@click.command()
@_values_options
@kubeconfig_option
@click.option(
    "--from",
    "former",
    metavar="FILE",
    help="An earlier output of install or upgrade; the cluster is not asked then.",
)
@click.option("--dry-run", is_flag=True, help="Show the difference instead of the manifests.")
def upgrade(
    namespace: str,
    sets: Sequence[str],
    files: Sequence[str],
    kubeconfig: str | None,
    former: str | None,
    dry_run: bool,
) -> None:
    """Print the manifests of this version, with the values of what is installed.

    Values given here come on top; the image's tag is this version's unless it is given. With
    --dry-run it ends with 5 if anything would change.
    """
    from installer.live import differences, recorded_values
    from installer.render import manifests
    from installer.settings import defaults
    from installer.text import to_yaml
    from installer.values import Given

    where = former or f"namespace {namespace}"
    live = _read_former(former) if former else asyncio.run(_read_cluster(namespace, kubeconfig))
    recorded = recorded_values(live, where)
    recorded.pop("image.tag", None)
    values = {**defaults(), **recorded, **_changes(sets, files)}
    wanted = manifests(Given(namespace=namespace, values=values))
    if not dry_run:
        click.echo(to_yaml(wanted), nl=False)
        return
    found = differences(live, wanted)
    click.echo(found or "nothing would change")
    if found:
        sys.exit(Exit.DIFFERENT)


def _changes(sets: Sequence[str], files: Sequence[str]) -> dict[str, Json]:
    """Values of the files, then those of the command line."""
    from installer.settings import read_set, read_values

    made: dict[str, Json] = {}
    for file in files:
        made.update(read_values(_read(file), file))
    made.update(read_set(text) for text in sets)
    return made


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error


def _read_former(file: str) -> list[Live]:
    import yaml

    try:
        found = list(yaml.safe_load_all(_read(file)))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: this is no YAML: {error}") from error
    return [one for one in found if isinstance(one, Mapping)]


async def _read_cluster(namespace: str, kubeconfig: str | None) -> list[Live]:
    from installer.live import find_ours
    from mesh.sources.kubernetes.config import load_configuration
    from mesh.sources.kubernetes.transport import KubeApi

    async with KubeApi(await load_configuration(kubeconfig_path(kubeconfig))) as api:
        return await find_ours(api, namespace)


def kubeconfig_path(given: str | None) -> Path:
    """The kubeconfig file that a person means."""
    path = Path(given) if given else Path(os.path.expanduser("~/.kube/config"))
    if not path.is_file():
        raise ConfigError(f"there is no kubeconfig {path}: give one with --kubeconfig FILE")
    return path
