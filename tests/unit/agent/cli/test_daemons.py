"""Starting a daemon with options that cannot work: one line that says what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.agent.cli.invoke import meshnode


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--source", "dir"), "write file:DIR"),
        (("--source", "file:/none"), "is not a directory"),
        (("--source", "file:."), "certificates: give --ca DIR"),
        (("--source", "file:.", "--ca", "x", "--workers", "0"), "--workers 0: use 1 to 256"),
        (("--source", "file:.", "--ca", "x", "--metrics", "15020"), "--metrics: '15020'"),
        (("--source", "file:.", "--ca", "x", "--drain-timeout", "soon"), "not a duration"),
        (("--source", "file:.", "--ca", "x", "--cgroup", "/etc"), "not a cgroup v2 directory"),
        (("--source", "file:.", "--ca", "x", "--trust-domain", "A"), "--trust-domain 'A'"),
    ],
)
def test_agent_options_that_cannot_work(arguments: tuple[str, ...], message: str) -> None:
    result = meshnode("agent", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="is about not being root")
@pytest.mark.parametrize(
    "command", [("agent", "--source", "file:.", "--ca", "x"), ("uninstall", "--yes")]
)
def test_without_root(command: tuple[str, ...]) -> None:
    result = meshnode(*command)
    assert result.exit_code == 3
    assert "sudo" in result.stderr


def test_a_controller_without_a_ca(tmp_path: Path) -> None:
    result = meshnode("controller", "--source", f"file:{tmp_path}", "--ca", f"{tmp_path}/none")
    assert result.exit_code == 1
    assert result.stderr.startswith("meshnode: ")


def test_uninstall_asks_first() -> None:
    result = meshnode("uninstall", "--node", "no-such-node-of-a-test")
    assert result.exit_code == 1
    assert "Take node no-such-node-of-a-test out of the mesh" in result.stderr
