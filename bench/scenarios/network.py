"""Bytes between pods, on one node and across: throughput, round trips, connects, idle memory."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.model import Peer
from bench.plan import AgentSettings, Cores, Plan
from bench.scenario import Lent, Scenario, Suite, Values
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
FAR_PEERS = (Peer.OURS, Peer.NO_MESH, Peer.ENVOY_HBONE, Peer.ENVOY_TLS, Peer.HAPROXY_TLS)
PROXIED_PEERS = (Peer.OURS, Peer.ENVOY_HBONE, Peer.ENVOY_TLS)
TLS_PAIRS = frozenset((Peer.ENVOY_TLS, Peer.HAPROXY_TLS))
"""Without multiplexing; left out of short runs, and HAProxy of what repeats itself."""
MANY_SIZES = (1, 1024, 65536)

Measure = Callable[[Stand, Peer], Values]


def network_suite(plan: Plan, cores: Cores, tools: Path, agents: AgentSettings) -> Suite:
    """Everything that needs the stand."""
    lent: Lent[Stand] = Lent()
    scenarios = _scenarios(lent, plan)
    wanted = {peer for scenario in scenarios for peer in scenario.peers}

    @contextmanager
    def build() -> Iterator[None]:
        with build_stand(cores, tools, agents, wanted) as stand, lent.lend(stand):
            yield

    return Suite(name="network", scenarios=scenarios, build=build, setup_s=9.0)


class _Scenarios:
    """Collects scenarios of those peers that take part."""

    def __init__(self, lent: Lent[Stand], plan: Plan) -> None:
        self._lent = lent
        self._plan = plan
        self.found: list[Scenario] = []

    def add(
        self,
        name: str,
        peers: Sequence[Peer],
        round_s: float,
        measure: Measure,
        rounds: int | None = None,
    ) -> None:
        """`rounds`: None = as many as the plan has."""
        self.found.append(
            Scenario(
                name=name,
                peers=[peer for peer in peers if takes_part(peer, self._plan, name)],
                rounds=self._plan.rounds if rounds is None else rounds,
                measure=lambda peer: measure(self._lent.now, peer),
                round_s=round_s,
            )
        )


def _scenarios(lent: Lent[Stand], plan: Plan) -> list[Scenario]:
    scenarios = _Scenarios(lent, plan)
    add = scenarios.add
    near = (Route.NEAR, NEAR_PEERS, plan.near_rtt_bytes, plan.near_streams)
    far = (Route.FAR, FAR_PEERS, plan.rtt_bytes, plan.streams)
    for route, peers, sizes, stream_counts in (near, far):
        for size in sizes:
            seconds = plan.rtt_s
            add(f"{route}/rtt/{size}B", peers, seconds + 0.1, _rtt(route, size, seconds))
        for streams in stream_counts:
            seconds = plan.flow_s
            flow = _throughput(route, streams, seconds)
            add(f"{route}/throughput/{streams}", peers, seconds + 0.2, flow)
        seconds = plan.connect_s
        add(f"{route}/connects", peers, seconds + 0.6, _connects(route, seconds))
        add(f"{route}/first-byte/warm", peers, seconds / 2 + 0.6, _first_byte(route, seconds / 2))
    cold_s = 0.25 * plan.cold_tries
    add(f"{Route.FAR}/first-byte/cold", PROXIED_PEERS, cold_s, _cold(plan.cold_tries))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for count in plan.idle:
        rounds = plan.idle_rounds if count == min(plan.idle) else 1
        held_s = 1.8 + count / 1500
        add(f"{Route.FAR}/idle/{count}", idle_peers(count, files), held_s, _idle(count), rounds)
    return scenarios.found


def takes_part(peer: Peer, plan: Plan, scenario: str) -> bool:
    """Whether a peer is there, and this scenario says something new of it."""
    if peer in TLS_PAIRS and not plan.all_peers:
        return False
    if peer is Peer.HAPROXY_TLS:
        repeats = "first-byte" in scenario or any(
            scenario.endswith(f"/rtt/{size}B") for size in MANY_SIZES
        )
        return shutil.which("haproxy") is not None and not repeats
    return True


def idle_peers(count: int, open_files: int) -> list[Peer]:
    """Who can hold `count` connections with so many open files per process.

    A proxy that makes a connection of its own for each has two descriptors per connection.
    """
    doubled = 2 * count + SPARE_FILES > open_files
    return [peer for peer in PROXIED_PEERS if not (doubled and peer is Peer.ENVOY_TLS)]


def _rtt(route: Route, size: int, seconds: float) -> Measure:
    def measure(stand: Stand, peer: Peer) -> Values:
        _quiet(stand)
        said = stand.load(peer, route, "rtt", str(size), str(seconds), timeout_s=seconds)
        return {"p50_us": said["p50_us"], "p99_us": said["p99_us"]}

    return measure


def _throughput(route: Route, streams: int, seconds: float) -> Measure:
    def measure(stand: Stand, peer: Peer) -> Values:
        cost = _Cost(stand, peer, route)
        said = stand.load(peer, route, "flow", str(streams), str(seconds), timeout_s=seconds)
        gigabytes = said["bytes"] / 1e9
        return {"gbit_per_s": said["gbit_per_s"], **cost.per(gigabytes, "gb")}

    return measure


def _connects(route: Route, seconds: float) -> Measure:
    def measure(stand: Stand, peer: Peer) -> Values:
        arguments = ("connect", str(PARALLEL), str(seconds), str(NO_LIMIT))
        cost = _Cost(stand, peer, route)
        said = stand.load(peer, route, *arguments, timeout_s=seconds)
        wait_quiet(stand.carriers[peer].mesh_cgroups[route], RECORDS_S)
        return {"connects_per_s": said["per_s"], **cost.per(said["count"] / 1000, "1000")}

    return measure


def _first_byte(route: Route, seconds: float) -> Measure:
    def measure(stand: Stand, peer: Peer) -> Values:
        _quiet(stand)
        arguments = ("connect", "1", str(seconds), str(NO_LIMIT))
        said = stand.load(peer, route, *arguments, timeout_s=seconds)
        wait_quiet(stand.carriers[peer].mesh_cgroups[route], RECORDS_S)
        return {"p50_us": said["p50_us"], "p99_us": said["p99_us"]}

    return measure


def _cold(tries: int) -> Measure:
    """The first connection after all tunnels were cut: a handshake is part of it."""

    def measure(stand: Stand, peer: Peer) -> Values:
        _quiet(stand)
        found = []
        for _ in range(tries):
            stand.cut_tunnels(peer)
            _quiet(stand)
            arguments = ("connect", "1", str(ONE_TRY_S), "1")
            said = stand.load(peer, Route.FAR, *arguments, timeout_s=ONE_TRY_S)
            found.append(said["p50_us"])
        return {"p50_us": summarise(found).median}

    return measure


def _idle(count: int) -> Measure:
    """Memory that `count` open, silent connections add to fresh processes of both sides."""

    def measure(stand: Stand, peer: Peer) -> Values:
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

    return measure


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
