from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agent.ztunnel.plan_outbound import (
    Chooser,
    PassthroughPlan,
    RefusePlan,
    TunnelPlan,
    plan_outbound,
)
from mesh.model.address import SocketAddress, parse_ip
from mesh.model.address import parse_socket_address as addr
from mesh.model.connection import ResponseFlag
from mesh.model.snapshot import MeshSettings, SameNode
from mesh.model.workload import WAYPOINT_LABEL, Endpoint, WorkloadUid
from tests.unit.agent.ztunnel.builders import endpoint, service, snapshot, workload

CLIENT = workload("client", "10.0.0.1", node="node-a")
NEAR = workload("near", "10.0.0.2", node="node-a")
FAR = workload("far", "10.0.1.2", "fd00::2", node="node-b")
PLAIN = workload("plain", "10.0.1.3", node="node-b", enrolled=False)


def pick(number: int) -> Chooser:
    return lambda endpoints: endpoints[number]


def first(endpoints: Sequence[Endpoint]) -> Endpoint:
    return endpoints[0]


def test_workload_address_goes_through_a_tunnel_to_its_own_port_15008() -> None:
    plan = plan_outbound(snapshot(CLIENT, FAR), CLIENT, addr("10.0.1.2:80"), first)
    assert plan == TunnelPlan(
        peer=addr("10.0.1.2:15008"),
        authority=addr("10.0.1.2:80"),
        expected=frozenset({FAR.identity}),
        destination=FAR,
        service=None,
    )


def test_second_address_of_a_workload_is_kept() -> None:
    plan = plan_outbound(snapshot(CLIENT, FAR), CLIENT, addr("[fd00::2]:80"), first)
    assert isinstance(plan, TunnelPlan)
    assert plan.peer == addr("[fd00::2]:15008")


def test_unknown_address_passes_through() -> None:
    plan = plan_outbound(snapshot(CLIENT), CLIENT, addr("192.0.2.1:443"), first)
    assert plan == PassthroughPlan(address=addr("192.0.2.1:443"), destination=None, service=None)


def test_workload_outside_the_mesh_passes_through() -> None:
    plan = plan_outbound(snapshot(CLIENT, PLAIN), CLIENT, addr("10.0.1.3:80"), first)
    assert isinstance(plan, PassthroughPlan)
    assert plan.destination is PLAIN


@pytest.mark.parametrize("port", [15001, 15006, 15008])
def test_our_own_ports_are_no_destination(port: int) -> None:
    plan = plan_outbound(snapshot(CLIENT, FAR), CLIENT, addr(f"10.0.1.2:{port}"), first)
    assert isinstance(plan, RefusePlan)
    assert plan.flag is ResponseFlag.CONNECT
    assert str(port) in plan.detail


def test_service_maps_the_port_and_keeps_the_service() -> None:
    web = service("web", "10.96.0.1", 80, [endpoint(FAR, 80, 8080)])
    plan = plan_outbound(snapshot(CLIENT, FAR, services=[web]), CLIENT, addr("10.96.0.1:80"), first)
    assert isinstance(plan, TunnelPlan)
    assert plan.authority == addr("10.0.1.2:8080")
    assert plan.service is web


def test_service_leaves_same_node_endpoints_to_the_kernel() -> None:
    web = service("web", "10.96.0.1", 80, [endpoint(NEAR, 80, 80), endpoint(FAR, 80, 80)])
    seen: list[Sequence[Endpoint]] = []

    def choose(endpoints: Sequence[Endpoint]) -> Endpoint:
        seen.append(endpoints)
        return endpoints[0]

    mesh = snapshot(CLIENT, NEAR, FAR, services=[web])
    plan_outbound(mesh, CLIENT, addr("10.96.0.1:80"), choose)
    assert [e.workload for e in seen[0]] == [FAR.uid]


def test_service_with_local_endpoints_only_still_works() -> None:
    web = service("web", "10.96.0.1", 80, [endpoint(NEAR, 80, 80)])
    mesh = snapshot(CLIENT, NEAR, services=[web])
    plan = plan_outbound(mesh, CLIENT, addr("10.96.0.1:80"), first)
    assert isinstance(plan, TunnelPlan)
    assert plan.destination is NEAR


def test_encrypted_same_node_traffic_uses_all_endpoints() -> None:
    web = service("web", "10.96.0.1", 80, [endpoint(NEAR, 80, 80), endpoint(FAR, 80, 80)])
    settings = MeshSettings(same_node=SameNode.ENCRYPT)
    mesh = snapshot(CLIENT, NEAR, FAR, services=[web], settings=settings)
    plan = plan_outbound(mesh, CLIENT, addr("10.96.0.1:80"), first)
    assert isinstance(plan, TunnelPlan)
    assert plan.destination is NEAR


@pytest.mark.parametrize(
    ("port", "ready", "detail"),
    [(81, True, "has no port 81"), (80, False, "has no ready endpoint")],
)
def test_service_without_a_way_in_is_refused(port: int, ready: bool, detail: str) -> None:
    web = service("web", "10.96.0.1", 80, [endpoint(FAR, 80, 80, ready=ready)])
    mesh = snapshot(CLIENT, FAR, services=[web])
    plan = plan_outbound(mesh, CLIENT, addr(f"10.96.0.1:{port}"), first)
    assert isinstance(plan, RefusePlan)
    assert plan.flag is ResponseFlag.NO_HEALTHY_UPSTREAM
    assert detail in plan.detail


def test_missing_waypoint_fails_closed() -> None:
    behind = workload("behind", "10.0.1.9", node="node-b", waypoint="default/gate")
    plan = plan_outbound(snapshot(CLIENT, behind), CLIENT, addr("10.0.1.9:80"), first)
    assert isinstance(plan, RefusePlan)
    assert "default/gate" in plan.detail


@pytest.mark.parametrize(
    ("vip", "expected"), [("10.96.0.1", "10.0.1.2"), ("fd00:96::1", "fd00::2")]
)
def test_a_service_keeps_the_family_that_was_dialled(vip: str, expected: str) -> None:
    both = [
        Endpoint(address=address, workload=FAR.uid, ports={80: 80}) for address in FAR.addresses
    ]
    web = service("web", vip, 80, both)
    dialled = SocketAddress(parse_ip(vip), 80)
    for picked in (0, -1):
        plan = plan_outbound(snapshot(CLIENT, FAR, services=[web]), CLIENT, dialled, pick(picked))
        assert isinstance(plan, TunnelPlan)
        assert str(plan.authority.ip) == expected


GATE = replace(
    workload("gate", "10.0.1.7", "fd00::7", node="node-b", enrolled=False),
    labels={WAYPOINT_LABEL: "gate"},
)


def test_a_services_waypoint_gets_the_address_that_was_dialled() -> None:
    web = replace(service("web", "10.96.0.1", 80, [endpoint(FAR, 80, 80)]), waypoint="default/gate")
    mesh = snapshot(CLIENT, FAR, GATE, services=[web])
    plan = plan_outbound(mesh, CLIENT, addr("10.96.0.1:80"), first)
    assert isinstance(plan, TunnelPlan)
    assert plan.peer == addr("10.0.1.7:15008")
    assert plan.authority == addr("10.96.0.1:80")
    assert plan.expected == {GATE.identity}
    assert plan.service is web


def test_a_services_waypoint_beats_that_of_its_workload() -> None:
    other = replace(GATE, uid=WorkloadUid("pod/default/other"), labels={WAYPOINT_LABEL: "other"})
    behind = workload("behind", "10.0.1.9", node="node-b", waypoint="default/other")
    web = service("web", "10.96.0.1", 80, [endpoint(behind, 80, 80)])
    for waypoint, authority in (("default/gate", "10.96.0.1:80"), (None, "10.0.1.9:80")):
        mesh = snapshot(CLIENT, behind, GATE, other, services=[replace(web, waypoint=waypoint)])
        plan = plan_outbound(mesh, CLIENT, addr("10.96.0.1:80"), first)
        assert isinstance(plan, TunnelPlan)
        assert plan.authority == addr(authority)
        assert plan.destination is (GATE if waypoint else other)


def test_a_workloads_waypoint_is_passed_unless_the_caller_is_it() -> None:
    behind = workload("behind", "10.0.1.9", node="node-b", waypoint="default/gate")
    mesh = snapshot(CLIENT, behind, GATE)
    plan = plan_outbound(mesh, CLIENT, addr("10.0.1.9:80"), first)
    assert isinstance(plan, TunnelPlan)
    assert plan.peer == addr("10.0.1.7:15008")
    plan = plan_outbound(mesh, GATE, addr("10.0.1.9:80"), first)
    assert isinstance(plan, TunnelPlan)
    assert plan.peer == addr("10.0.1.9:15008")


def test_a_waypoint_that_is_not_ready_fails_closed() -> None:
    web = replace(service("web", "10.96.0.1", 80, [endpoint(FAR, 80, 80)]), waypoint="default/gate")
    mesh = snapshot(CLIENT, FAR, replace(GATE, ready=False), services=[web])
    plan = plan_outbound(mesh, CLIENT, addr("10.96.0.1:80"), first)
    assert isinstance(plan, RefusePlan)
    assert plan.flag is ResponseFlag.NO_HEALTHY_UPSTREAM
    assert "default/gate" in plan.detail
