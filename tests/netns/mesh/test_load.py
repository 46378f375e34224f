"""Many connections: what each costs, and that nothing of them is left."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.capture import inspect
from tests.lab import Process, eventually
from tests.lab.system import in_netns
from tests.netns.mesh.world import APPS, PYTHON, Mesh, last_answer, status

pytestmark = pytest.mark.root

PORT = 9000
CROWD = (*PYTHON, str(APPS / "crowd.py"))
LIMIT_PER_CONNECTION = 24 * 1024
TCP_LISTEN = "0A"
MOST_STOCKED = 4 * 2 * 64
"""Four workers keep up to two batches of 32 for each of a pod's two kinds of socket."""
SETTLED_S = 30.0
"""Workers report every two seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What the workers of both nodes and the kernel hold for connections.

    Attributes:
        connected: descriptors of connected sockets, and of sockets that are not closed though
            their connection has ended. Sockets in stock, made in advance in each pod, are neither
            connected nor in any table, and come and go with the load: `idle` descriptors.
    """

    rss: int
    connected: int
    idle: int
    streams: int
    tunnels: int
    entries: dict[str, int]


def holdings(mesh: Mesh) -> Holdings:
    """RSS is /proc/PID/statm's second field: anonymous and shared pages that are in memory."""
    workers = [worker for agent in mesh.agents for worker in status(agent).workers]
    entries = {
        f"{node.short_name} {view.name}": view.entries or 0
        for node in (mesh.a, mesh.b)
        for view in inspect.maps(node.name)
        if view.name in ("mn_orig_dst", "mn_grant", "mn_flow")
    }
    table = connected_inodes(mesh)
    held = [inode for worker in workers for inode in descriptors(worker.pid)]
    connected = sum(inode in table for inode in held)
    return Holdings(
        rss=sum(resident(worker.pid) for worker in workers),
        connected=connected,
        idle=len(held) - connected,
        streams=sum(worker.streams for worker in workers),
        tunnels=sum(worker.tunnels for worker in workers),
        entries=entries,
    )


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> list[str]:
    """What each descriptor of a process is: `socket:[INODE]`, `pipe:[INODE]` or a path."""
    found: list[str] = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
    return found


def connected_inodes(mesh: Mesh) -> frozenset[str]:
    """Sockets of TCP connections in all pods: everything in the tables but listeners."""

    def read() -> list[str]:
        lines = [
            line.split()
            for name in ("tcp", "tcp6")
            for line in Path("/proc/thread-self/net", name).read_text().splitlines()[1:]
        ]
        return [f"socket:[{fields[9]}]" for fields in lines if fields[3] != TCP_LISTEN]

    pods = [pod for node in (mesh.a, mesh.b) for pod in node.pods.values()]
    return frozenset(inode for pod in pods for inode in in_netns(pod.place.netns, read))


@pytest.fixture(scope="module")
def crowd_server(mesh: Mesh) -> Mesh:
    """An accept-everything server in `far` and `near`; the first connections were made."""
    for name in ("far", "near"):
        server = mesh[name].start([*CROWD, "serve", str(PORT)])
        server.wait_output("serving")
    hold_and_close(mesh, 2)
    return mesh


def hold(mesh: Mesh, count: int, dst: str = "far") -> Process:
    address = mesh[dst].address4
    client = mesh["client"].start([*CROWD, "hold", address, str(PORT), str(count)])
    client.wait_output("ready to end", 90.0)
    return client


def hold_and_close(mesh: Mesh, count: int) -> None:
    client = hold(mesh, count)
    client.signal(signal.SIGTERM)
    client.wait(30.0).check()


def assert_nothing_is_left(mesh: Mesh, before: Holdings) -> Holdings:
    """No stream, no map entry, and no connection but the tunnels, which stay for reuse."""

    def settled() -> bool:
        now = holdings(mesh)
        assert now.streams == 0, f"{now.streams} streams"
        assert now.connected == now.tunnels, f"{now.connected} sockets, {now.tunnels} tunnels"
        assert now.idle <= before.idle + MOST_STOCKED, f"{now.idle} idle, {before.idle} before"
        assert now.entries == before.entries, f"{now.entries} instead of {before.entries}"
        return True

    eventually(settled, SETTLED_S, "all is given back")
    return holdings(mesh)


def measure_idle(mesh: Mesh, count: int) -> float:
    """Bytes of resident memory that `count` idle connections across the nodes cost, each, in the
    workers of both nodes together: difference of the sum of their RSS, tunnels included."""
    eventually(lambda: holdings(mesh).streams == 0, SETTLED_S, "earlier tests are over")
    before = holdings(mesh)
    client = hold(mesh, count)
    eventually(
        lambda: holdings(mesh).streams == 2 * count, SETTLED_S, f"{2 * count} streams counted"
    )
    during = holdings(mesh)
    each = (during.rss - before.rss) / count
    print(
        f"{count} idle connections: {each / 1024:.1f} KiB each in all workers of both nodes, "
        f"{during.tunnels} ends of tunnels, {during.connected} sockets"
    )
    client.signal(signal.SIGTERM)
    client.wait(60.0).check()
    after = assert_nothing_is_left(mesh, before)
    print(f"afterwards: {after}")
    return each


def test_idle_connections_cost_little(crowd_server: Mesh) -> None:
    assert measure_idle(crowd_server, 500) <= LIMIT_PER_CONNECTION


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_five_thousand_idle_connections(crowd_server: Mesh) -> None:
    assert measure_idle(crowd_server, 5000) <= LIMIT_PER_CONNECTION


def churn(mesh: Mesh, dst: str, seconds: int) -> None:
    before = holdings(mesh)
    argv = [*CROWD, "churn", mesh[dst].address4, str(PORT), "200", str(seconds)]
    answer = last_answer(mesh["client"].run(argv, timeout_s=seconds + 60).check().stdout)
    print(f"to {dst}: {answer}")
    assert answer["failed"] == []
    after = assert_nothing_is_left(mesh, before)
    print(f"before: {before}\nafter:  {after}")


@pytest.mark.parametrize("dst", ["far", "near"])
def test_two_hundred_connects_a_second(crowd_server: Mesh, dst: str) -> None:
    churn(crowd_server, dst, 5)


@pytest.mark.slow
@pytest.mark.parametrize("dst", ["far", "near"])
def test_two_hundred_connects_a_second_for_a_minute(crowd_server: Mesh, dst: str) -> None:
    churn(crowd_server, dst, 60)
