"""Answers from files or the cluster's API alone, without an agent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from agent.cli.output.progress import progress
from agent.cli.output.shared import Command
from agent.options import KubernetesOption, parse_agent_source
from mesh.errors import ConfigError
from mesh.model.snapshot import MeshSnapshot, Severity
from mesh.sources.file import FileSource
from mesh.sources.objects import ObjectSet
from mesh.state.reducer import reduce

SYNC_TIMEOUT_S = 30.0


def source_option(command: Command) -> Command:
    """`--source`: answer without the agent."""
    option = click.option(
        "--source",
        metavar="file:DIR|kubernetes[:KUBECONFIG]",
        help="Judge by these objects instead of asking the running agent.",
    )
    return option(command)


def load_objects(source: str) -> ObjectSet:
    """Read `file:DIR`, or list everything of `kubernetes[:KUBECONFIG]`.

    Raises `ConfigError` if the directory or the API server cannot be read.
    """
    option = parse_agent_source(source)
    if isinstance(option, KubernetesOption):
        with progress("listing the cluster's objects"):
            return asyncio.run(_list_cluster(option.kubeconfig))
    return FileSource(option.directory).load_once()


def load_snapshot(source: str) -> MeshSnapshot:
    """Reduce the objects of a source; those with errors are left out and named on standard error.

    Raises `ConfigError` if the source cannot be read.
    """
    snapshot = reduce(load_objects(source), None)
    for problem in snapshot.problems:
        if problem.severity is Severity.ERROR:
            click.echo(f"meshnode: left out: {problem.where}: {problem.message}", err=True)
    return snapshot


async def _list_cluster(kubeconfig: Path | None) -> ObjectSet:
    from mesh.sources.kubernetes.config import load_configuration
    from mesh.sources.kubernetes.source import open_kubernetes

    configuration = await load_configuration(kubeconfig)
    try:
        async with asyncio.timeout(SYNC_TIMEOUT_S), open_kubernetes(configuration) as source:
            return await anext(source.watch())
    except TimeoutError as error:
        raise ConfigError(
            f"the API server has not shown every kind within {SYNC_TIMEOUT_S:.0f} s: see whether "
            "you may list them (`kubectl auth can-i list authorizationpolicies.meshnode.io`)"
        ) from error
