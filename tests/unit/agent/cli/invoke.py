"""Runs `meshnode` as a person would type it, against a node served by the test."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from agent.cli.main import cli
from agent.cli.reach.live import SocketAt


def meshnode(*arguments: str, socket: Path | None = None, node: str | None = "n1") -> Result:
    """Run a command; `socket` is where the agent of node n1 answers."""
    env = {"MESHNODE_NODE": node, "MESHNODE_CA": ""}
    return CliRunner().invoke(
        cli,
        list(arguments),
        prog_name="meshnode",
        obj=SocketAt(socket) if socket else None,
        env=env,
    )


def error_of(result: Result) -> dict[str, str]:
    """The error object of JSON mode."""
    body = json.loads(result.stdout)
    error = body["error"]
    assert isinstance(error, dict)
    return error
