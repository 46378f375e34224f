"""Bytes between pods, on one node and across: throughput, round trips, connects, idle memory."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.model import Peer
from bench.plan import AgentSettings, Cores, Plan
from bench.scenario import Scenario, Suite, Values
from bench.stand import Route, Stand, build_stand
from bench.stats import summarise
from bench.usage import cpu_seconds, resident_bytes, wait_quiet

SPARE_FILES = 1000
PARALLEL = 16
"""Connects in flight when connects per second are counted."""
NO_LIMIT = 1_000_000_000
ONE_TRY_S = 5.0
RECORDS_S = 0.4
"""The agent collects what the kernel and the workers tell of connections within this time."""

NEAR_PEERS = (Peer.OURS, Peer.NO_MESH, Peer.ENVOY_HBONE)
FAR_PEERS = (Peer.OURS, Peer.NO_MESH, Peer.ENVOY_TLS, Peer.ENVOY_HBONE)
PROXIED_PEERS = (Peer.OURS, Peer.ENVOY_TLS, Peer.ENVOY_HBONE)


def network_suite(plan: Plan, cores: Cores, tools: Path, agents: AgentSettings) -> Suite:
    """Everything that needs the stand."""

    @contextmanager
    def build() -> Iterator[Sequence[Scenario]]:
        with build_stand(cores, tools, agents) as stand:
            yield _scenarios(stand, plan)

    return Suite(name="network", prefixes=tuple(Route), build=build)


def _scenarios(stand: Stand, plan: Plan) -> list[Scenario]:
    found: list[Scenario] = []

    def add(name: str, peers: Sequence[Peer], measure: Callable[[Peer], Values]) -> None:
        found.append(Scenario(name=name, peers=peers, rounds=plan.rounds, measure=measure))

    near = (Route.NEAR, NEAR_PEERS, plan.near_rtt_bytes, plan.near_streams)
    far = (Route.FAR, FAR_PEERS, plan.rtt_bytes, plan.streams)
    for route, peers, sizes, stream_counts in (near, far):
        for size in sizes:
            add(f"{route}/rtt/{size}B", peers, partial(_rtt, stand, route, size, plan.rtt_s))
        for streams in stream_counts:
            measure = partial(_throughput, stand, route, streams, plan.flow_s)
            add(f"{route}/throughput/{streams}", peers, measure)
        add(f"{route}/connects", peers, partial(_connects, stand, route, plan.connect_s))
        first_byte = partial(_first_byte, stand, route, plan.connect_s / 2)
        add(f"{route}/first-byte/warm", peers, first_byte)
    cold = partial(_cold, stand, plan.cold_tries)
    add(f"{Route.FAR}/first-byte/cold", PROXIED_PEERS, cold)
    return found + [
        Scenario(
            name=f"{Route.FAR}/idle/{count}",
            peers=idle_peers(count, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            rounds=plan.idle_rounds if count == min(plan.idle) else 1,
            measure=partial(_idle, stand, count),
        )
        for count in plan.idle
    ]


def idle_peers(count: int, open_files: int) -> list[Peer]:
    """Who can hold `count` connections with so many open files per process.

    A proxy that makes a connection of its own for each has two descriptors per connection.
    """
    doubled = 2 * count + SPARE_FILES > open_files
    return [peer for peer in PROXIED_PEERS if not (doubled and peer is Peer.ENVOY_TLS)]


def _rtt(stand: Stand, route: Route, size: int, seconds: float, peer: Peer) -> Values:
    _quiet(stand)
    said = stand.load(peer, route, "rtt", str(size), str(seconds), timeout_s=seconds)
    return {"p50_us": said["p50_us"], "p99_us": said["p99_us"]}


def _throughput(stand: Stand, route: Route, streams: int, seconds: float, peer: Peer) -> Values:
    cost = _Cost(stand, peer, route)
    said = stand.load(peer, route, "flow", str(streams), str(seconds), timeout_s=seconds)
    gigabytes = said["bytes"] / 1e9
    return {"gbit_per_s": said["gbit_per_s"], **cost.per(gigabytes, "gb")}


def _connects(stand: Stand, route: Route, seconds: float, peer: Peer) -> Values:
    arguments = ("connect", str(PARALLEL), str(seconds), str(NO_LIMIT))
    cost = _Cost(stand, peer, route)
    said = stand.load(peer, route, *arguments, timeout_s=seconds)
    wait_quiet(stand.carriers[peer].mesh_cgroups[route], RECORDS_S)
    return {"connects_per_s": said["per_s"], **cost.per(said["count"] / 1000, "1000")}


def _first_byte(stand: Stand, route: Route, seconds: float, peer: Peer) -> Values:
    _quiet(stand)
    arguments = ("connect", "1", str(seconds), str(NO_LIMIT))
    said = stand.load(peer, route, *arguments, timeout_s=seconds)
    wait_quiet(stand.carriers[peer].mesh_cgroups[route], RECORDS_S)
    return {"p50_us": said["p50_us"], "p99_us": said["p99_us"]}


def _cold(stand: Stand, tries: int, peer: Peer) -> Values:
    """The first connection after all tunnels were cut: a handshake is part of it."""
    _quiet(stand)
    found = []
    for _ in range(tries):
        stand.cut_tunnels(peer)
        _quiet(stand)
        arguments = ("connect", "1", str(ONE_TRY_S), "1")
        said = stand.load(peer, Route.FAR, *arguments, timeout_s=ONE_TRY_S)
        found.append(said["p50_us"])
    return {"p50_us": summarise(found).median}


def _idle(stand: Stand, count: int, peer: Peer) -> Values:
    """Memory that `count` open, silent connections add to fresh processes of both sides."""
    carrier = stand.carriers[peer]
    cgroups = carrier.mesh_cgroups[Route.FAR]
    carrier.restart()
    arguments = ("connect", "1", str(ONE_TRY_S), "10")
    stand.load(peer, Route.FAR, *arguments, timeout_s=ONE_TRY_S)
    wait_quiet(cgroups)
    before = resident_bytes(cgroups)
    with stand.idle(peer, Route.FAR, count):
        wait_quiet(cgroups)
        after = resident_bytes(cgroups)
    sides = 2
    return {
        "kib_per_connection": (after - before) / count / sides / 1024,
        "base_mib": before / (1 << 20),
    }


def _quiet(stand: Stand) -> None:
    """Nobody's leftover work may disturb what is measured next."""
    wait_quiet(stand.all_mesh_cgroups)


class _Cost:
    """CPU time from here on: of the mesh, and of everything that takes part.

    Work that is put off (records, closing) counts: the end is when the mesh is quiet again.
    """

    def __init__(self, stand: Stand, peer: Peer, route: Route) -> None:
        carrier = stand.carriers[peer]
        self._mesh = carrier.mesh_cgroups[route]
        self._all = (
            *self._mesh,
            carrier.trio.client.cgroup,
            carrier.trio.server(route).cgroup,
        )
        _quiet(stand)
        self._begin = (cpu_seconds(self._mesh), cpu_seconds(self._all))

    def per(self, units: float, name: str) -> dict[str, float]:
        """Seconds per unit; the mesh's own only where there is a mesh."""
        wait_quiet(self._mesh)
        mesh, everything = cpu_seconds(self._mesh), cpu_seconds(self._all)
        found = {f"cpu_all_s_per_{name}": (everything - self._begin[1]) / units}
        if self._mesh:
            found[f"cpu_s_per_{name}"] = (mesh - self._begin[0]) / units
        return found
