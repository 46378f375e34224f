"""`meshnode bpf` and `uninstall` against programs and maps that are really pinned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent.capture.uninstall import uninstall
from agent.node.lock import node_lock
from agent.paths import SCHEMA_VERSION, NodePaths
from bpf.layout import MAPS, PROGRAMS
from tests.unit.agent.cli.invoke import error_of, meshnode

pytestmark = pytest.mark.root

VERBS = ("links", "enrolled", "origdst", "identity", "policy", "service", "stats", "flows", "drops")


def load(node: str) -> None:
    """Pin everything, in the short-lived process that does it for the agent."""
    command = [sys.executable, "-m", "agent.capture.loader", "--node", node]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    """A node with everything pinned and nothing attached."""
    name = f"cli-{os.getpid()}"
    try:
        load(name)
        yield name
    finally:
        uninstall(name)


@pytest.fixture
def empty_node() -> Iterator[str]:
    name = f"cli-empty-{os.getpid()}"
    yield name
    uninstall(name)


def entries(node: str, verb: str) -> list[dict[str, object]]:
    result = meshnode("bpf", verb, "--node", node, "-o", "json")
    assert result.exit_code == 0, result.output
    body = json.loads(result.stdout)
    assert (body["schema_version"], body["node"]) == (SCHEMA_VERSION, node)
    found = body["entries"]
    assert isinstance(found, list)
    return found


def test_maps_and_programs(node: str) -> None:
    maps = entries(node, "maps")
    assert [one["name"] for one in maps] == sorted(spec.name for spec in MAPS)
    assert all(isinstance(one["id"], str) for one in maps)
    assert {one["name"] for one in entries(node, "progs")} == {spec.name for spec in PROGRAMS}
    table = meshnode("bpf", "maps", "--node", node).stdout
    assert table.splitlines()[-1] == f"{len(MAPS)} maps"


@pytest.mark.parametrize("verb", VERBS)
def test_an_empty_kernel_is_an_empty_list(node: str, verb: str) -> None:
    assert entries(node, verb) == []
    assert meshnode("bpf", verb, "--node", node).stdout.splitlines()[-1].startswith("0 ")


def test_fsck_finds_that_nothing_is_attached(node: str) -> None:
    result = meshnode("bpf", "fsck", "--node", node)
    assert result.exit_code == 1
    assert "mn_connect4" in result.stdout


def test_check_finds_that_nothing_is_attached(node: str) -> None:
    result = meshnode("check", "--node", node, "-o", "short")
    assert result.exit_code == 1
    assert "failed: kernel state: links: no program is attached" in result.stdout


def test_pins_of_another_version_end_with_4(empty_node: str) -> None:
    (NodePaths(empty_node).pin_root / "v0").mkdir(parents=True)
    result = meshnode("bpf", "maps", "--node", empty_node, "-o", "json")
    assert (result.exit_code, error_of(result)["code"]) == (4, "schema")
    assert "meshnode uninstall" in result.stderr


def test_uninstall_leaves_nothing_and_may_be_repeated(empty_node: str) -> None:
    paths = NodePaths(empty_node)
    load(empty_node)
    result = meshnode("uninstall", "--yes", "--node", empty_node, "-o", "json")
    assert result.exit_code == 0, result.output
    removed = json.loads(result.stdout)["removed"]
    assert f"pin {paths.pin_dir}/maps/mn_workload" in removed
    assert not paths.pin_root.exists()
    assert not paths.run_dir.exists()
    again = meshnode("uninstall", "--yes", "--node", empty_node)
    assert again.exit_code == 0
    assert again.stdout == f"nothing of node {empty_node} was left\n"


def test_uninstall_refuses_while_the_agent_runs(empty_node: str) -> None:
    paths = NodePaths(empty_node)
    try:
        with node_lock(paths):
            result = meshnode("uninstall", "--yes", "--node", empty_node)
        assert result.exit_code == 1
        assert "is running already" in result.stderr
    finally:
        paths.lock_file.unlink()
        paths.run_dir.rmdir()
