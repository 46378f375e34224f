"""Options that many commands share, and how a command answers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import click

from agent.paths import NodePaths, known_nodes
from mesh.errors import ConfigError

Command = TypeVar("Command", bound=Callable[..., object])

JSON_MODE = "meshnode.json"
"""Key in click's `meta`: the command was asked for JSON, so its errors are JSON too."""


class Output(StrEnum):
    """`-o`."""

    TABLE = "table"
    JSON = "json"
    SHORT = "short"


def node_option(command: Command) -> Command:
    """`--node NAME`, also from MESHNODE_NODE."""
    option = click.option(
        "--node",
        envvar="MESHNODE_NODE",
        metavar="NAME",
        help="Node to look at. Default: the only one on this machine, else the host's name.",
    )
    return option(command)


def otlp_ca_option(command: Command) -> Command:
    """`--otlp-ca FILE` of what sends spans."""
    option = click.option(
        "--otlp-ca",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="With https:// and grpcs://: who may have signed the collector's certificate, in PEM. "
        "Default: the system's authorities.",
    )
    return option(command)


def output_option(*extra: Output) -> Callable[[Command], Command]:
    """`-o table|json`, and what else the command offers."""
    choices = [Output.TABLE, *extra, Output.JSON]

    def decorate(command: Command) -> Command:
        option = click.option(
            "-o",
            "--output",
            type=click.Choice([str(choice) for choice in choices]),
            default=str(Output.TABLE),
            show_default=True,
            callback=_remember,
            is_eager=True,
            help="Form of the answer.",
        )
        return option(command)

    return decorate


def _remember(context: click.Context, _parameter: click.Parameter, value: str) -> Output:
    output = Output(value)
    if output is Output.JSON:
        context.meta[JSON_MODE] = True
    return output


def paths_of(node: str | None) -> NodePaths:
    """The node a command is about: as given, the only one known, or the host's name."""
    if node is not None:
        return NodePaths(node)
    known = known_nodes()
    host = host_name()
    if len(known) == 1:
        return NodePaths(known[0])
    if known and host not in known:
        raise ConfigError(f"several nodes are known here: choose one with --node {'|'.join(known)}")
    return NodePaths(host)


def host_name() -> str:
    """The host's name as a node name."""
    return socket.gethostname().lower()


def answer(output: Output, value: object, human: Callable[[], str]) -> None:
    """Print JSON of `value`, or the text `human` makes."""
    if output is Output.JSON:
        from agent.admin.codec import to_json

        click.echo(to_json(value, indent=2))
    else:
        click.echo(human())
