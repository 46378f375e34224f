"""Whom a command asks: options, and what they come to."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from agent.cli.output.shared import Command
from agent.cli.reach.live import SocketAt
from agent.paths import known_nodes
from mesh.errors import ConfigError
from mesh.model.names import SYSTEM_NAMESPACE
from mesh.run_files import waypoint_sockets

KUBECONFIG = "meshnode.kubeconfig"
CONTEXT = "meshnode.context"
MESH_NAMESPACE = "meshnode.namespace"
"""Keys in click's `meta`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterChoice:
    """Which cluster, and where in it the agents are.

    Attributes:
        context: of the kubeconfig; None = its current one.
    """

    kubeconfig: Path
    context: str | None = None
    namespace: str = SYSTEM_NAMESPACE


def reach_options(command: Command) -> Command:
    """`--node`, `--kubeconfig`, `--context` and `--mesh-namespace`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _remember(key: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def store(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        context.meta[key] = value

    return store


_OPTIONS = (
    click.option(
        "--node",
        envvar="MESHNODE_NODE",
        metavar="NAME",
        help="Ask this node alone. Default: all of them, here or in the cluster.",
    ),
    click.option(
        "--kubeconfig",
        metavar="FILE",
        expose_value=False,
        callback=_remember(KUBECONFIG),
        help="Ask the agents of a cluster. Default: KUBECONFIG, else ~/.kube/config, where no "
        "agent runs on this machine.",
    ),
    click.option(
        "--context",
        metavar="NAME",
        expose_value=False,
        callback=_remember(CONTEXT),
        help="Of the kubeconfig. Default: its current one.",
    ),
    click.option(
        "--mesh-namespace",
        envvar="MESHNODE_NAMESPACE",
        metavar="NAME",
        default=SYSTEM_NAMESPACE,
        show_default=True,
        expose_value=False,
        callback=_remember(MESH_NAMESPACE),
        help="Where in the cluster the agents are.",
    ),
)


def chosen_cluster(context: click.Context) -> ClusterChoice | None:
    """The cluster to ask: the one that was named, else, where no agent runs here, the one that
    kubectl would ask. None = this machine. Raises `ConfigError` if a named file is not there."""
    kubeconfig, name = context.meta.get(KUBECONFIG), context.meta.get(CONTEXT)
    if not (kubeconfig or name) and (_is_local(context) or not kubeconfig_of(None).is_file()):
        return None
    file = kubeconfig_of(kubeconfig)
    if not file.is_file():
        raise ConfigError(f"there is no kubeconfig at {file}: use --kubeconfig FILE")
    namespace = context.meta.get(MESH_NAMESPACE) or SYSTEM_NAMESPACE
    return ClusterChoice(kubeconfig=file, context=name, namespace=namespace)


def _is_local(context: click.Context) -> bool:
    return bool(context.find_object(SocketAt) or known_nodes() or waypoint_sockets())


def kubeconfig_of(given: str | None) -> Path:
    """The file that was named, else kubectl's; whether it exists is the caller's question."""
    text = given or os.environ.get("KUBECONFIG") or "~/.kube/config"
    return Path(text.split(os.pathsep)[0]).expanduser()


def reach_arguments(choice: ClusterChoice) -> list[str]:
    """The options again, for a command that starts others."""
    found = ["--kubeconfig", str(choice.kubeconfig), "--mesh-namespace", choice.namespace]
    return [*found, "--context", choice.context] if choice.context else found
