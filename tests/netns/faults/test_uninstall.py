"""`meshnode uninstall --yes` leaves nothing, whatever state it finds."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.capture import pins, syscalls
from agent.capture.cgroup import agent_cgroup_path, cgroup_mount
from agent.paths import NodePaths
from mesh.errors import KernelError
from tests.conftest import NO_ROOT
from tests.lab import Lab, Node, Pod, eventually, sweep
from tests.lab.agent import REPOSITORY
from tests.lab.record import RECORD_ROOT
from tests.lab.system import NETNS_ROOT, command, start_ticks
from tests.netns.faults.world import (
    PORT,
    agent_of,
    ask,
    holder_pid,
    kill9,
    serve,
    start_agent,
    worker_pids,
)

pytestmark = pytest.mark.root


class OneNode:
    """A node of two pods with a running agent."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.namespace("default", enrolled=True)
        self.node: Node = lab.node("a")
        self.client: Pod = self.node.pod("client")
        self.server: Pod = self.node.pod("server")
        serve(self.server)

    def start(self) -> None:
        start_agent(self.node, "--drain-timeout", "1s")
        assert ask(self.client, self.server.address4, "hello").end == "ok"


@pytest.fixture(scope="module")
def one_node() -> Iterator[OneNode]:
    if os.geteuid() != 0:
        pytest.skip(NO_ROOT)
    with Lab("uninstall") as lab:
        yield OneNode(lab)


@pytest.fixture
def scene(one_node: OneNode) -> Iterator[OneNode]:
    yield one_node
    if one_node.node.running_agent is not None:
        one_node.node.running_agent.kill()
        one_node.node.meshnode("uninstall", "--yes").check()


def stop(node: Node) -> None:
    agent_of(node).stop()


def crash(node: Node) -> None:
    agent_of(node).kill()


def crash_all_but_workers(node: Node) -> None:
    crash(node)
    kill9(holder_pid(node))


def crash_all(node: Node) -> None:
    crash_all_but_workers(node)
    kill9(*worker_pids(node))


def crash_and_lose_pins(node: Node) -> None:
    crash(node)
    for pin in pins.links_dir(node.paths).iterdir():
        pin.unlink()


def program_ids(node: Node) -> set[int]:
    ids = set()
    for pin in pins.progs_dir(node.paths).iterdir():
        fd = syscalls.obj_get(str(pin))
        ids.add(syscalls.prog_info(fd).id)
        os.close(fd)
    return ids


def is_loaded(prog_id: int) -> bool:
    try:
        os.close(syscalls.prog_by_id(prog_id))
    except KernelError as error:
        return error.errno != errno.ENOENT
    return True


def routing(pod: Pod) -> str:
    lines = [command(["ip", "-n", pod.place.netns, family, "rule"]) for family in ("-4", "-6")]
    table = ["ip", "-n", pod.place.netns, "route", "show", "table", "all"]
    return "".join([*lines, command(table)])


@pytest.mark.parametrize(
    "hurt",
    [
        stop,
        pytest.param(crash, marks=pytest.mark.slow),
        pytest.param(crash_all_but_workers, marks=pytest.mark.slow),
        crash_all,
        crash_and_lose_pins,
    ],
)
def test_uninstall_leaves_nothing(scene: OneNode, hurt: Callable[[Node], None]) -> None:
    node, paths = scene.node, scene.node.paths
    before = routing(scene.server)
    scene.start()
    assert routing(scene.server) != before
    programs, processes = program_ids(node), [holder_pid(node), *worker_pids(node)]
    hurt(node)
    node.meshnode("uninstall", "--yes").check()
    assert not paths.run_dir.exists()
    assert not paths.pin_root.exists()
    assert not agent_cgroup_path(paths).exists()
    assert not list(cgroup_mount().rglob(paths.canary_cgroup_name))
    eventually(lambda: not any(map(start_ticks, processes)), 30.0, "its processes are gone")
    eventually(lambda: not any(map(is_loaded, programs)), 30.0, "its programs are gone")
    assert routing(scene.server) == before
    assert ask(scene.client, scene.server.address4, "hello").end == "ok"
    again = node.meshnode("uninstall", "--yes").check()
    assert "nothing of node" in again.stdout
    assert not paths.run_dir.exists()


def test_uninstall_after_the_pods_are_gone(scene: OneNode) -> None:
    late = scene.node.pod("late")
    scene.start()
    crash(scene.node)
    command(["ip", "netns", "del", late.place.netns])
    scene.lab.delete("pod-default-late")
    scene.node.meshnode("uninstall", "--yes").check()
    assert not scene.node.paths.pin_root.exists()
    assert not agent_cgroup_path(scene.node.paths).exists()


def test_uninstall_refuses_while_the_agent_runs(scene: OneNode) -> None:
    scene.start()
    agent = agent_of(scene.node)
    refused = scene.node.meshnode("uninstall", "--yes")
    assert refused.status == 1
    assert f"pid {agent.pid}" in refused.stderr
    assert ask(scene.client, scene.server.address4, "hello").end == "ok"
    assert agent.stop() == 0
    scene.node.meshnode("uninstall", "--yes").check()


def test_an_agent_that_stops_leaves_no_temporary_file(scene: OneNode) -> None:
    temporary = Path("/tmp")
    before = {entry.name for entry in temporary.iterdir()}
    scene.start()
    scene.node.running_agent and scene.node.running_agent.stop()
    left = {entry.name for entry in temporary.iterdir()} - before
    assert not [name for name in left if "mesh" in name or scene.node.name in name]
    scene.node.meshnode("uninstall", "--yes").check()


def test_the_port_is_free_for_the_application_again(scene: OneNode) -> None:
    assert PORT == 8080
    serve(scene.client, 15008)
    assert ask(scene.server, scene.client.address4, "hello", 15008).end == "ok"


KILLED_LAB = """
import time
from tests.lab import Lab
lab = Lab("killed").__enter__()
lab.namespace("default", enrolled=True)
node = lab.node("a")
node.pod("p")
node.agent()
print(lab.name, node.name, flush=True)
time.sleep(600)
"""


def test_a_killed_run_with_an_agent_is_swept() -> None:
    """The agent dies with its lab; holder, workers, pins and cgroups are what is left."""
    script = [sys.executable, "-c", KILLED_LAB]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as child:
        assert child.stdout is not None
        name, node = child.stdout.readline().split()
        child.kill()
    paths = NodePaths(node)
    cgroup = agent_cgroup_path(paths)
    pids = [int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()]
    assert len(pids) >= 2, "holder and workers"
    assert name in sweep()
    for path in (paths.run_dir, paths.pin_root, cgroup, RECORD_ROOT / name, NETNS_ROOT / node):
        assert not path.exists()
    eventually(lambda: not any(map(start_ticks, pids)), 30.0, "its processes are gone")
