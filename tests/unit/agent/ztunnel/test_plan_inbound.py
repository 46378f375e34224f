from __future__ import annotations

import pytest

from agent.ztunnel.plan_inbound import (
    AdmitPlan,
    InboundRequest,
    RejectPlan,
    plan_inbound,
    resolve_authority,
    still_allowed,
)
from mesh.hbone.authority import HostPort
from mesh.model.address import parse_socket_address as addr
from mesh.model.connection import ResponseFlag
from mesh.model.policy import MtlsMode, PeerAuthentication, PolicyKey, PolicyScope
from mesh.model.snapshot import MeshSnapshot
from mesh.model.verdict import ConnectionFacts, Decision
from mesh.model.workload import WorkloadUid
from mesh.policy.engine import PolicyIndex
from tests.unit.agent.ztunnel.builders import endpoint, service, snapshot, workload

CLIENT = workload("client", "10.0.0.1")
SERVER = workload("server", "10.0.1.1")
STRICT = PeerAuthentication(
    key=PolicyKey("default/strict"),
    namespace="default",
    name="strict",
    scope=PolicyScope.NAMESPACE,
    mode=MtlsMode.STRICT,
)


def ask(dst: str, *, uid: WorkloadUid = SERVER.uid, known: bool = True) -> InboundRequest:
    return InboundRequest(
        uid=uid,
        principal=CLIENT.identity if known else None,
        src=addr("10.0.0.1:1"),
        dst=addr(dst),
    )


def strict_mesh() -> MeshSnapshot:
    mesh = snapshot(CLIENT, SERVER)
    return MeshSnapshot(
        revision=2, workloads=mesh.workloads, peer_authentications={STRICT.key: STRICT}
    )


def test_a_known_peer_is_admitted_with_its_facts() -> None:
    mesh = snapshot(CLIENT, SERVER)
    plan = plan_inbound(mesh, PolicyIndex.compile(mesh), ask("10.0.1.1:80"))
    assert isinstance(plan, AdmitPlan)
    assert plan.workload is SERVER
    assert plan.facts.principal == CLIENT.identity


@pytest.mark.parametrize(
    ("dst", "status", "detail"),
    [
        ("10.0.9.9:80", 400, "is not an address of pod/default/server"),
        ("10.0.1.1:15001", 503, "belongs to the mesh"),
        ("10.0.1.1:15006", 503, "belongs to the mesh"),
        ("10.0.1.1:15008", 503, "belongs to the mesh"),
    ],
)
def test_other_addresses_and_our_ports_are_no_destination(
    dst: str, status: int, detail: str
) -> None:
    mesh = snapshot(CLIENT, SERVER)
    plan = plan_inbound(mesh, PolicyIndex.compile(mesh), ask(dst))
    assert isinstance(plan, RejectPlan)
    assert plan.status == status
    assert detail in plan.detail


def test_an_unknown_or_unenrolled_workload_takes_nothing() -> None:
    outside = workload("server", "10.0.1.1", enrolled=False)
    for mesh in (snapshot(CLIENT), snapshot(CLIENT, outside)):
        plan = plan_inbound(mesh, PolicyIndex.compile(mesh), ask("10.0.1.1:80"))
        assert isinstance(plan, RejectPlan)
        assert plan.status == 503


def test_strict_denies_plaintext_and_names_the_object() -> None:
    mesh = strict_mesh()
    plan = plan_inbound(mesh, PolicyIndex.compile(mesh), ask("10.0.1.1:80", known=False))
    assert isinstance(plan, RejectPlan)
    assert (plan.status, plan.flag) == (401, ResponseFlag.DENY)
    assert "PeerAuthentication default/strict" in plan.detail


def test_open_connections_are_judged_by_the_workload_as_it_is_now() -> None:
    facts = ConnectionFacts(principal=None, src=addr("10.0.0.1:1"), dst=addr("10.0.1.1:80"))
    mesh = snapshot(CLIENT, SERVER)
    assert still_allowed(mesh, PolicyIndex.compile(mesh), SERVER.uid, facts).allowed
    strict = strict_mesh()
    assert not still_allowed(strict, PolicyIndex.compile(strict), SERVER.uid, facts).allowed
    gone = snapshot(CLIENT)
    verdict = still_allowed(gone, PolicyIndex.compile(gone), SERVER.uid, facts)
    assert verdict.decision is Decision.UNKNOWN_DESTINATION


def test_a_host_name_means_the_port_its_service_maps_here() -> None:
    web = service("web", "10.96.0.1", 80, [endpoint(SERVER, 80, 8080)])
    mesh = snapshot(CLIENT, SERVER, services=[web])
    name = HostPort("web.default.svc.cluster.local", 80)
    assert resolve_authority(mesh, SERVER.uid, name) == addr("10.0.1.1:8080")
    assert resolve_authority(mesh, CLIENT.uid, name) is None
    assert resolve_authority(mesh, SERVER.uid, HostPort("web.default", 80)) is None
    assert resolve_authority(mesh, SERVER.uid, addr("10.0.1.1:1")) == addr("10.0.1.1:1")
