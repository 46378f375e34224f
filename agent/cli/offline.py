"""Answers from files alone, without an agent."""

from __future__ import annotations

import click

from agent.options import parse_source
from mesh.model.snapshot import MeshSnapshot, Severity
from mesh.sources.file import FileSource
from mesh.state.reducer import reduce


def load_snapshot(source: str) -> MeshSnapshot:
    """Read `file:DIR` once; objects with errors are left out and named on standard error.

    Raises `ConfigError` if the directory cannot be read.
    """
    snapshot = reduce(FileSource(parse_source(source).directory).load_once(), None)
    for problem in snapshot.problems:
        if problem.severity is Severity.ERROR:
            click.echo(f"meshnode: left out: {problem.where}: {problem.message}", err=True)
    return snapshot
