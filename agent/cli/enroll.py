"""`meshnode enroll` and `meshnode unenroll`: the labels of namespaces and pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from agent.cli.output.shared import Command, Output, answer, output_option
from agent.cli.reach.cluster import in_cluster, kubeconfig_option, patch, path_of, read, section
from mesh.errors import ConfigError

if TYPE_CHECKING:
    from mesh.sources.kubernetes.transport import KubeApi

SCHEMA_VERSION = 1
DATAPLANE = "meshnode.io/dataplane"
USE_WAYPOINT = "meshnode.io/use-waypoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """One object and its labels of ours before and after; `""` = not set."""

    target: str
    before: Mapping[str, str]
    after: Mapping[str, str]
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """`meshnode enroll -o json`. With a dry run nothing was written."""

    schema_version: int = SCHEMA_VERSION
    dry_run: bool
    targets: tuple[Labelled, ...]


def _shared(command: Command) -> Command:
    for option in (
        output_option(),
        kubeconfig_option,
        click.option("--dry-run", is_flag=True, help="Show what would change."),
        click.argument("targets", nargs=-1, required=True),
    ):
        command = option(command)
    return command


@click.command()
@_shared
@click.option("--waypoint", metavar="NAME", help="Send requests through this waypoint too.")
def enroll(
    targets: tuple[str, ...],
    dry_run: bool,
    kubeconfig: str | None,
    output: Output,
    waypoint: str | None,
) -> None:
    """Take namespaces (NAME) or pods (NAMESPACE/NAME) into the mesh.

    Sets the label meshnode.io/dataplane=enabled, which you may as well keep in your manifests.
    Running pods are captured without a restart; `meshnode status` says when.
    """
    labels: dict[str, str | None] = {DATAPLANE: "enabled"}
    if waypoint is not None:
        labels[USE_WAYPOINT] = waypoint
    _run(targets, labels, dry_run, kubeconfig, output)


@click.command()
@_shared
def unenroll(
    targets: tuple[str, ...], dry_run: bool, kubeconfig: str | None, output: Output
) -> None:
    """Let namespaces (NAME) go from the mesh; pods (NAMESPACE/NAME) are marked to stay outside.

    Policies no longer protect what is outside. Open connections through the mesh end.
    """
    namespaces = [one for one in targets if "/" not in one]
    pods = [one for one in targets if "/" in one]
    found = _change(namespaces, {DATAPLANE: None, USE_WAYPOINT: None}, dry_run, kubeconfig)
    found += _change(pods, {DATAPLANE: "disabled"}, dry_run, kubeconfig)
    _show(found, dry_run, output)


def _run(
    targets: tuple[str, ...],
    labels: Mapping[str, str | None],
    dry_run: bool,
    kubeconfig: str | None,
    output: Output,
) -> None:
    _show(_change(list(targets), labels, dry_run, kubeconfig), dry_run, output)


def _show(found: list[Labelled], dry_run: bool, output: Output) -> None:
    result = Enrolled(dry_run=dry_run, targets=tuple(found))
    answer(output, result, lambda: "\n".join(_line(one, dry_run) for one in found))


def _line(one: Labelled, dry_run: bool) -> str:
    if not one.changed:
        return f"{one.target}: nothing to change"
    words = [
        f"{name.partition('/')[2]} {one.before.get(name) or 'unset'} -> {value or 'unset'}"
        for name, value in one.after.items()
    ]
    return f"{one.target}: {'would change ' if dry_run else ''}{', '.join(words)}"


def _change(
    targets: list[str], labels: Mapping[str, str | None], dry_run: bool, kubeconfig: str | None
) -> list[Labelled]:
    async def one(api: KubeApi, target: str) -> Labelled:
        namespace, slash, name = target.partition("/")
        if not namespace or (slash and not name) or "/" in name:
            raise ConfigError(f"{target!r}: write NAMESPACE, or NAMESPACE/POD")
        path = path_of(namespace, name)
        item = await read(api, path)
        if item is None:
            raise ConfigError(f"there is no {'pod' if slash else 'namespace'} {target}")
        had = section(item, "metadata", "labels")
        before = {key: str(had.get(key, "")) for key in labels}
        after = {key: value or "" for key, value in labels.items()}
        if before != after and not dry_run:
            await patch(api, path, {"metadata": {"labels": dict(labels)}})
        return Labelled(target=target, before=before, after=after, changed=before != after)

    async def every(api: KubeApi) -> list[Labelled]:
        return [await one(api, target) for target in targets]

    return in_cluster(kubeconfig, every) if targets else []
