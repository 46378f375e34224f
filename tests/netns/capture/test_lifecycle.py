"""Loading, reloading, being killed, full maps, and leaving nothing behind."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from agent.capture import cgroup, fsck, inspect, pins, probe, syscalls
from agent.capture.table import create_table
from agent.capture.uninstall import uninstall
from agent.paths import NodePaths, known_nodes
from bpf.layout import MAPS, PROGRAMS, MapSpec
from mesh.errors import KernelError
from tests.netns.capture.world import Node, PodNs, eventually, node, run_in, workload

pytestmark = pytest.mark.root

LOADER = [sys.executable, "-m", "agent.capture.loader", "--node"]


@pytest.fixture
def name() -> Iterator[str]:
    """A node of our own that is gone afterwards."""
    made = f"life{os.getpid() % 100000}"
    yield made
    uninstall(made)


def loaded(name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LOADER, name], capture_output=True, text=True, check=False)


def test_this_kernel_has_what_is_needed() -> None:
    probe.require(probe.probe())


def test_second_start_compiles_nothing(name: str) -> None:
    assert '"compiled": true' in loaded(name).stdout
    maps, progs = inspect.maps(name), inspect.progs(name)
    assert '"compiled": false' in loaded(name).stdout
    assert [view.id for view in inspect.maps(name)] == [view.id for view in maps]
    assert [view.id for view in inspect.progs(name)] == [view.id for view in progs]
    assert (len(maps), len(progs)) == (len(MAPS), len(PROGRAMS))
    assert not any(view.problem for view in inspect.maps(name))


def test_loader_killed_half_way_is_made_good(name: str) -> None:
    first_program = NodePaths(name).pin_dir / "progs" / PROGRAMS[0].name
    child = subprocess.Popen([*LOADER, name], stdout=subprocess.DEVNULL)
    eventually(lambda: first_program.exists() or child.poll() is not None, deadline_s=300)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with pins.open_maps(NodePaths(name)) as maps:
        complete = pins.read_hash(maps) != bytes(32)
    result = loaded(name)
    assert result.returncode == 0, result.stderr
    assert (f'"compiled": {"false" if complete else "true"}') in result.stdout
    assert {view.name for view in inspect.progs(name)} == {spec.name for spec in PROGRAMS}


def test_node_name_with_dots(name: str) -> None:
    dotted = f"{name}.example.org"
    try:
        result = loaded(dotted)
        assert result.returncode == 0, result.stderr
        assert dotted in known_nodes()
        assert inspect.progs(dotted)
    finally:
        uninstall(dotted)


def test_missing_program_is_compiled_again(name: str) -> None:
    loaded(name)
    (NodePaths(name).pin_dir / "progs" / "mn_sockops").unlink()
    assert '"compiled": true' in loaded(name).stdout


def test_pins_of_another_schema_are_refused(name: str) -> None:
    loaded(name)
    other = NodePaths(name).pin_root / "v0"
    other.mkdir()
    result = loaded(name)
    assert result.returncode == 1
    assert "another schema" in result.stderr
    assert "meshnode uninstall" in result.stderr
    assert any("another schema" in finding.message for finding in fsck.fsck(name))


def test_map_of_another_layout_is_refused(name: str) -> None:
    loaded(name)
    pin = NodePaths(name).pin_dir / "maps" / "mn_probe"
    pin.unlink()
    spec = next(spec for spec in MAPS if spec.name == "mn_probe")
    odd = MapSpec(spec.index, spec.name, spec.type, spec.key_size, 8, 16, spec.flags)
    with create_table(odd) as table:
        syscalls.obj_pin(table.fd, str(pin))
    result = loaded(name)
    assert result.returncode == 1
    assert "meshnode uninstall" in result.stderr
    with pytest.raises(KernelError, match="mn_probe"):
        pins.open_maps(NodePaths(name))


def test_not_loaded_is_a_clear_error(name: str) -> None:
    with pytest.raises(KernelError, match="No such file"):
        inspect.enrolled(name)


def bpf_objects() -> tuple[str, str]:
    """Programs of ours and links, as bpftool lists them."""
    progs = subprocess.run(["bpftool", "prog", "show"], capture_output=True, text=True, check=True)
    links = subprocess.run(["bpftool", "link", "show"], capture_output=True, text=True, check=True)
    return progs.stdout, links.stdout


def test_uninstall_leaves_nothing(name: str, pods: list[PodNs]) -> None:
    pod = pods[0]
    with node(name) as made:
        made.local = {pod.uid: pod.cookie}
        made.apply(workload(pod))
        made.enrol(pod)
        prog_ids = {view.id for view in inspect.progs(name)}
        link_ids = {view.id for view in inspect.links(name)}
        assert len(link_ids) == len(PROGRAMS)
        assert all(f"{i}: " in bpf_objects()[0] for i in prog_ids)
        removed = uninstall(name)
        assert any("mn_connect4" in line for line in removed)
        assert uninstall(name) == []
    progs, links = bpf_objects()
    assert not [i for i in prog_ids if progs.startswith(f"{i}: ") or f"\n{i}: " in progs]
    assert not [i for i in link_ids if links.startswith(f"{i}: ") or f"\n{i}: " in links]
    assert not NodePaths(name).pin_root.exists()


def test_links_outlive_their_maker_and_are_updated_in_place(name: str, pods: list[PodNs]) -> None:
    pod = pods[0]
    with node(name) as made:
        made.local = {pod.uid: pod.cookie}
        made.apply(workload(pod))
        made.enrol(pod)
        before = {view.name: (view.id, view.prog_id) for view in inspect.links(name)}
        made.enrol(pod)  # what a restarted agent does
        assert {v.name: (v.id, v.prog_id) for v in inspect.links(name)} == before


@pytest.mark.parametrize("above", [0, 1], ids=["on a machine", "on a node in a container"])
def test_processes_of_the_agent_are_not_captured(name: str, pods: list[PodNs], above: int) -> None:
    """A node that is a container does not see how deep below the machine's root it is."""
    pod, other = pods[0], pods[1]
    with node(name) as made:
        own = made.pods_cgroup / "agent"
        own.mkdir()
        seen = cgroup.describe_cgroup(own)
        made.agent = replace(seen, level=seen.level - above)
        made.local = {pod.uid: pod.cookie}
        made.apply(workload(pod), workload(other, node="n2"))
        made.enrol(pod)
        code = f"print(errno_of({str(other.v4)!r}, 8080))"
        try:
            with other.listen(str(other.v4), 8080):
                assert run_in(pod, made.pods_cgroup, code) == "ECONNREFUSED"
                assert run_in(pod, own, code) == "connected"
        finally:
            own.rmdir()
        counts = {view.reason: view.count for view in inspect.drops(name)}
        assert (counts["pass_agent"], counts["captured"]) == (1, 1)


def fill_up(made: Node, name: str) -> None:
    """Put junk into a map until the kernel says it is full."""
    table = made.maps[name]
    value = bytes(table.value_size)
    keys = (b"\xfe" + n.to_bytes(table.spec.key_size - 1, "big") for n in itertools.count())

    def fill() -> None:
        for key in keys:
            table.update(key, value)

    with pytest.raises(KernelError, match="full"):
        fill()


def test_full_map_closes_instead_of_opening(name: str, pods: list[PodNs]) -> None:
    """With a map too small for the mesh, an address that did not fit goes to ztunnel."""
    pod, other = pods[0], pods[1]
    with node(name) as made:
        made.local = {pod.uid: pod.cookie}
        made.apply(workload(pod))
        made.enrol(pod)
        fill_up(made, "mn_workload")
        with pytest.raises(KernelError, match=r"mn_workload.*full"):
            made.apply(workload(pod), workload(other, node="n2"))
        code = f"print(errno_of({str(other.v4)!r}, 8080))"
        with other.listen(str(other.v4), 8080):
            assert run_in(pod, made.pods_cgroup, code) == "ECONNREFUSED"
        assert any("map is full" in finding.message for finding in fsck.fsck(name))
