"""How long and how much: the full run, the quick one, and the smallest that runs everything."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of one run.

    Attributes:
        rounds: of everything that is compared with peers.
        idle_rounds: each restarts all proxies.
        near_streams, near_rtt_bytes: the same for pods of one node.
        all_peers: whether those are compared too that speak no HBONE.
        cold_tries: first connections per round.
        session: whether the HTTP/2 engines are compared, which takes ten seconds.
        workloads: of the snapshot that is reduced.
        policies: of `POLICY_RULES` rules each.
        pods: of the node that is enrolled and then at rest.
        rest_s: how long it is watched at rest.
        request_s: of requests per round through a waypoint, after `warm_s` that do not count.
        connections, body_bytes: of clients of a waypoint; idle_clients: held open.
        streams_at_once: on the one connection of a client with HTTP/2.
        rates: requests per second at fixed instants, for their latency.
        limit_s: when it is over, what is left gets one round only.
    """

    mode: str
    rounds: int
    flow_s: float
    streams: Sequence[int]
    rtt_s: float
    rtt_bytes: Sequence[int]
    near_streams: Sequence[int]
    near_rtt_bytes: Sequence[int]
    all_peers: bool
    connect_s: float
    cold_tries: int
    idle: Sequence[int]
    idle_rounds: int
    core_rounds: int
    session: bool
    workloads: int
    policies: int
    routes: Sequence[int]
    series: int
    start_rounds: int
    enrol_rounds: int
    pods: int
    rest_s: float
    request_s: float
    connections: Sequence[int]
    body_bytes: Sequence[int]
    idle_clients: int
    warm_s: float
    streams_at_once: Sequence[int]
    rates: Sequence[int]
    limit_s: float


FULL = Plan(
    mode="full",
    rounds=5,
    flow_s=1.0,
    streams=(1, 8, 64),
    rtt_s=0.5,
    rtt_bytes=(1, 128, 1024, 16384, 65536),
    near_streams=(1, 8),
    near_rtt_bytes=(1, 128, 16384),
    connect_s=1.0,
    cold_tries=3,
    idle=(1000, 10_000),
    idle_rounds=3,
    core_rounds=3,
    session=True,
    workloads=100_000,
    policies=10_000,
    routes=(10, 1000, 10_000),
    series=10_000,
    start_rounds=3,
    enrol_rounds=3,
    pods=100,
    rest_s=20.0,
    request_s=0.5,
    connections=(1, 32, 256),
    body_bytes=(1024, 65536, 1 << 20),
    idle_clients=1000,
    all_peers=True,
    warm_s=0.15,
    streams_at_once=(32, 64),
    rates=(3000,),
    limit_s=840.0,
)
QUICK = Plan(
    mode="quick",
    rounds=2,
    flow_s=0.4,
    streams=(1, 8),
    rtt_s=0.3,
    rtt_bytes=(128, 16384),
    near_streams=(1,),
    near_rtt_bytes=(128,),
    connect_s=0.4,
    cold_tries=2,
    idle=(1000,),
    idle_rounds=1,
    core_rounds=1,
    session=False,
    workloads=10_000,
    policies=1000,
    routes=(10, 1000),
    series=1000,
    start_rounds=1,
    enrol_rounds=1,
    pods=20,
    rest_s=2.0,
    request_s=0.3,
    connections=(32,),
    body_bytes=(1 << 20,),
    idle_clients=500,
    all_peers=False,
    warm_s=0.1,
    streams_at_once=(32,),
    rates=(3000,),
    limit_s=105.0,
)
SMOKE = Plan(
    mode="smoke",
    rounds=1,
    flow_s=0.2,
    streams=(1,),
    rtt_s=0.1,
    rtt_bytes=(128,),
    near_streams=(1,),
    near_rtt_bytes=(128,),
    connect_s=0.1,
    cold_tries=1,
    idle=(50,),
    idle_rounds=1,
    core_rounds=1,
    session=False,
    workloads=200,
    policies=20,
    routes=(10,),
    series=20,
    start_rounds=1,
    enrol_rounds=1,
    pods=2,
    rest_s=0.2,
    request_s=0.1,
    connections=(2,),
    body_bytes=(1024,),
    idle_clients=20,
    all_peers=True,
    warm_s=0.02,
    streams_at_once=(4,),
    rates=(200,),
    limit_s=600.0,
)

POLICY_RULES = 10
ENGINE_VARIABLE = "MESHNODE_TUNNEL_ENGINE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """Which core each party is pinned to: each node gets a core of its own, if there are two."""

    client: int
    near_proxy: int
    far_proxy: int
    server: int

    @property
    def all(self) -> list[int]:
        return sorted({self.client, self.near_proxy, self.far_proxy, self.server})


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """How the agents are started.

    Attributes:
        options: of the command line; one worker unless they say otherwise.
        engine: of the tunnels; empty = as the agent chooses.
    """

    options: Sequence[str] = ()
    engine: str = ""

    @property
    def argv(self) -> list[str]:
        return ["--workers", "1", *self.options]

    @property
    def env(self) -> Mapping[str, str]:
        return {ENGINE_VARIABLE: self.engine} if self.engine else {}


def assign_cores(available: Sequence[int]) -> Cores:
    """Four parties on four cores, on two (one per node), or all on one."""
    first = sorted(available)
    if len(first) >= 4:
        return Cores(client=first[0], near_proxy=first[1], far_proxy=first[2], server=first[3])
    near, far = first[0], first[-1]
    return Cores(client=near, near_proxy=near, far_proxy=far, server=far)


def own_cores() -> Cores:
    """The assignment for the cores this process may use."""
    return assign_cores(sorted(os.sched_getaffinity(0)))
