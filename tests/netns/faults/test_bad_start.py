"""An agent that cannot start says why in one line, with its exit code, and leaves no mess."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from agent.cli.output.exits import Exit
from agent.paths import BPF_ROOT
from tests.conftest import NO_ROOT
from tests.lab import Lab, Node
from tests.lab.agent import MESHNODE, MESHNODE_ENVIRONMENT
from tests.lab.process import AS_NOBODY, Result, run
from tests.lab.system import in_netns
from tests.netns.faults.world import PROGRAMS, start_agent

pytestmark = pytest.mark.root

LINK_CREATE = 28
MAP_CREATE = 0


@pytest.fixture(scope="module")
def made() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip(NO_ROOT)
    with Lab("bad-start") as lab:
        lab.namespace("default", enrolled=True)
        yield lab


@pytest.fixture
def node(made: Lab) -> Iterator[Node]:
    """A node that nothing has run on yet, or whose traces were removed."""
    found = made.node("a")
    yield found
    if found.running_agent is not None:
        found.running_agent.stop()
    found.meshnode("uninstall", "--yes").check()


def options(at: Node, **changed: str) -> list[str]:
    chosen = {
        "node": at.name,
        "source": f"file:{at.lab.objects.path}",
        "cgroup": str(at.pods_cgroup),
        "ca": str(at.lab.directory / "ca"),
        **changed,
    }
    return [word for name, value in chosen.items() for word in (f"--{name}", value)]


def start(
    at: Node,
    before: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    **changed: str,
) -> Result:
    """`meshnode agent`, to its end; it must end by itself."""
    argv = [*before, *MESHNODE, "agent", *options(at, **changed)]
    found = run(at.place, argv, timeout_s=20.0, env={**MESHNODE_ENVIRONMENT, **(env or {})})
    assert found.status > 0, found
    assert "Traceback" not in found.stderr, found.stderr
    return found


def check_told(found: Result, code: Exit, *words: str) -> None:
    last = found.stderr.strip().splitlines()[-1]
    assert found.status == code, found.stderr
    assert last.startswith("meshnode: "), found.stderr
    for word in words:
        assert word in found.stderr, found.stderr


def test_missing_source_directory(node: Node) -> None:
    check_told(start(node, source="file:/no/such"), Exit.NEGATIVE, "/no/such is not a directory")


def test_unusable_cgroup(node: Node) -> None:
    check_told(start(node, cgroup="/proc"), Exit.NEGATIVE, "/proc: not a cgroup v2 directory")


def test_not_root(node: Node) -> None:
    check_told(start(node, before=AS_NOBODY), Exit.PERMISSION, "sudo")


def test_port_of_the_metrics_is_taken(node: Node) -> None:
    with in_netns(node.netns, lambda: socket.create_server(("127.0.0.1", 15020))):
        check_told(start(node), Exit.NEGATIVE, "127.0.0.1:15020", "in use")


def test_corrupt_authority(node: Node, tmp_path: Path) -> None:
    state = tmp_path / "ca"
    run(node.place, [*MESHNODE, "ca", "init", "--ca", str(state)], env=MESHNODE_ENVIRONMENT).check()
    file = state / "ca.json"
    file.write_text(file.read_text()[:100])
    check_told(start(node, ca=str(state)), Exit.NEGATIVE, str(file))


def test_no_kernel_headers(node: Node) -> None:
    found = start(node, env={"BCC_KERNEL_SOURCE": "/no/such"})
    check_told(found, Exit.NEGATIVE, "no kernel headers", "apt install linux-headers")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        pytest.param(LINK_CREATE, ("attach", "Invalid argument"), id="no-links"),
        pytest.param(MAP_CREATE, ("map", "Invalid argument"), id="no-such-map"),
    ],
)
def test_kernel_without_a_feature(node: Node, command: int, words: tuple[str, ...]) -> None:
    before = (sys.executable, "-I", "-S", str(PROGRAMS / "without_call.py"), str(command))
    check_told(start(node, before=before), Exit.NEGATIVE, *words)


def test_pins_of_another_schema(node: Node) -> None:
    other = BPF_ROOT / node.name / "v999" / "maps"
    other.mkdir(parents=True)
    try:
        check_told(start(node), Exit.SCHEMA, "v999", "meshnode uninstall")
    finally:
        node.meshnode("uninstall", "--yes").check()
    assert not (BPF_ROOT / node.name).exists()


def test_two_agents_on_one_node(node: Node) -> None:
    agent = start_agent(node)
    check_told(start(node), Exit.NEGATIVE, f"running already (pid {agent.pid})")
    assert agent.running
    agent.wait_ready()


def test_a_name_that_is_none(node: Node) -> None:
    check_told(start(node, node="Not/A/Name"), Exit.NEGATIVE, "is not a node name")


def test_nothing_is_left_of_all_that(made: Lab) -> None:
    paths = made.node("a").paths
    assert not paths.run_dir.exists()
    assert not paths.pin_root.exists()
    assert shutil.which("setpriv")
