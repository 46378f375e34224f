"""What looking costs: a waypoint and a node that are observed beside ones that are not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.model import Peer
from bench.plan import AgentSettings, Cores, Plan
from bench.scenario import Lent, Scenario, Suite, Values
from bench.scenarios.waypoint import HEADERS, PATH, PROCESS_S, USUAL
from bench.stand import APP_PORT, START_S, node_cgroups
from bench.tools import compile_tool
from bench.usage import cpu_seconds, pin, wait_quiet
from bench.waypoint.load import HttpLoad
from bench.waypoint.objects import ADDRESSES, HOST
from bench.waypoint.stand import Ground, Running, Start, build_ground
from mesh.telemetry.request_log import LogMode
from tests.lab import Lab, Node, Pod
from tests.lab.process import run
from tests.support.processes import free_port

GROUP = "observation"
PEERS = (Peer.OURS, Peer.UNOBSERVED)
NEAR_S = 0.35
"""Of round trips, or of connects, on a node."""
NAMESPACE = "meshed"
PARALLEL = 16
RECORDS_S = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """How a waypoint is observed.

    Attributes:
        sampling: share of new traces, or `none`.
    """

    mode: LogMode
    sampling: str = "none"


WAYPOINTS: Mapping[str, Observed] = {
    "default": Observed(mode=LogMode.ERRORS),
    "text": Observed(mode=LogMode.TEXT),
}
NOTHING = Observed(mode=LogMode.OFF)


def observed_waypoint_suite(plan: Plan, cores: Cores, tools: Path) -> Suite:
    """Requests through a waypoint's worker, with each way of observing and with none."""
    lent: Lent[_Proxies] = Lent()

    @contextmanager
    def build() -> Iterator[None]:
        with build_ground(cores, tools) as ground, lent.lend(_Proxies(ground)):
            yield

    def scenario(name: str) -> Scenario:
        return Scenario(
            name=f"{GROUP}/waypoint/{name}",
            peers=PEERS,
            rounds=plan.rounds if name == "default" else min(3, plan.rounds),
            measure=lambda peer: lent.now.measure(name if peer is Peer.OURS else "", plan),
            round_s=plan.warm_s + plan.request_s + PROCESS_S,
        )

    names = () if plan.mode == "quick" else WAYPOINTS
    return Suite(
        name="observed-waypoint",
        scenarios=list(map(scenario, names)),
        build=build,
        setup_s=2.5 if names else 0.0,
    )


class _Proxies:
    """A worker for each way of observing, all on the same core."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._running = {
            name: ground.proxy(_start(ground, how))
            for name, how in {**WAYPOINTS, "": NOTHING}.items()
        }

    def measure(self, name: str, plan: Plan) -> Values:
        proxy: Running = self._running[name]
        load = HttpLoad(path=PATH, connections=USUAL, headers=HEADERS)
        before = proxy.cpu_s()
        said = self._ground.ask(load, proxy.ports[80], plan.warm_s, plan.request_s)
        values = dict(said)
        used = proxy.cpu_s() - before
        values["cpu_s_per_1000"] = used * 1000 / values.pop("answered")
        return values


def _start(ground: Ground, how: Observed) -> Start:
    ports = {port: free_port() for port in ADDRESSES}
    numbers = map(str, (ground.upstream, *ports.values()))
    argv = [sys.executable, "-m", "bench.waypoint.observed", str(how.mode), how.sampling, *numbers]
    return Start(argv=argv, ports=ports, listens=[(HOST, port) for port in ports.values()])


# --- one node ------------------------------------------------------------------------------------


def observed_node_suite(plan: Plan, cores: Cores, tools: Path, agents: AgentSettings) -> Suite:
    """Connections between pods of one node: with the default log and metrics, and with no log."""
    lent: Lent[Mapping[Peer, _Pods]] = Lent()

    @contextmanager
    def build() -> Iterator[None]:
        with Lab("bench-seen") as lab:
            lab.namespace(NAMESPACE, enrolled=True)
            programs = {name: compile_tool(name, tools) for name in ("load", "serve")}
            off = AgentSettings(options=(*agents.options, "--access-log=off"), engine=agents.engine)
            pods = {
                Peer.OURS: _Pods(lab.node("a"), programs, cores, agents),
                Peer.UNOBSERVED: _Pods(lab.node("b"), programs, cores, off),
            }
            with lent.lend(pods):
                yield

    def scenario(name: str, measure: Callable[[_Pods, float], Values]) -> Scenario:
        return Scenario(
            name=f"{GROUP}/same-node/{name}",
            peers=PEERS,
            rounds=plan.rounds,
            measure=lambda peer: measure(lent.now[peer], NEAR_S),
            round_s=NEAR_S + 0.5,
        )

    found = [scenario("rtt/128B", _Pods.rtt), scenario("connects", _Pods.connects)]
    wanted = [] if plan.mode == "quick" else found
    return Suite(
        name="observed-node", scenarios=wanted, build=build, setup_s=6.0 if wanted else 0.0
    )


class _Pods:
    """A client and a server on a node of their own, and its agent."""

    def __init__(
        self, node: Node, programs: Mapping[str, Path], cores: Cores, settings: AgentSettings
    ) -> None:
        self._programs = programs
        self._cores = cores
        self._client: Pod = node.pod("client", namespace=NAMESPACE)
        self._server: Pod = node.pod("server", namespace=NAMESPACE)
        serve = ["taskset", "-c", str(cores.server), str(programs["serve"]), str(APP_PORT)]
        self._server.start(serve).wait_listening(APP_PORT)
        node.agent(*settings.argv, ready_within_s=START_S, env=settings.env)
        self._cgroups = node_cgroups(node)
        pin(self._cgroups, cores.near_proxy)

    def rtt(self, seconds: float) -> Values:
        wait_quiet(self._cgroups)
        said = self._load("rtt", "128", str(seconds), timeout_s=seconds)
        return {"p50_us": said["p50_us"], "p99_us": said["p99_us"]}

    def connects(self, seconds: float) -> Values:
        wait_quiet(self._cgroups)
        before = cpu_seconds(self._cgroups)
        arguments = ("connect", str(PARALLEL), str(seconds), "1000000000")
        said = self._load(*arguments, timeout_s=seconds)
        wait_quiet(self._cgroups, RECORDS_S)
        used = cpu_seconds(self._cgroups) - before
        per_s, count = said["per_s"], said["count"]
        return {"connects_per_s": per_s, "cpu_s_per_1000": used * 1000 / count}

    def _load(self, kind: str, *rest: str, timeout_s: float) -> Mapping[str, float]:
        argv = [str(self._programs["load"]), kind, self._server.address4, str(APP_PORT), *rest]
        command = ["taskset", "-c", str(self._cores.client), *argv]
        done = run(self._client.place, command, timeout_s=timeout_s + 15.0).check()
        said: dict[str, float] = json.loads(done.stdout)
        if said.get("failed"):
            raise RuntimeError(f"{said['failed']:.0f} connections failed")
        return said
