"""Whether a connection may enter a workload of this node, and where it goes then. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from agent.ztunnel.plan_outbound import CAPTURE_PORTS
from mesh.hbone.authority import Authority
from mesh.model.address import SocketAddress
from mesh.model.connection import ResponseFlag
from mesh.model.identity import SpiffeId
from mesh.model.snapshot import MeshSnapshot
from mesh.model.verdict import ConnectionFacts, Decision, Verdict
from mesh.model.workload import Workload, WorkloadUid
from mesh.policy.engine import PolicyIndex

BAD_REQUEST = 400
UNAUTHORIZED = 401
"""What ztunnels answer to a policy denial (not 403; istio/ztunnel `inbound.rs`)."""
UNAVAILABLE = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitPlan:
    """Connect to the application, from the client's own address."""

    workload: Workload
    facts: ConnectionFacts
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectPlan:
    """Do not connect. `status` is for HBONE; plaintext clients see a reset."""

    status: int
    flag: ResponseFlag
    detail: str
    workload: Workload | None = None
    facts: ConnectionFacts | None = None
    verdict: Verdict | None = None


InboundPlan = AdmitPlan | RejectPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundRequest:
    """A connection that wants into a workload.

    Attributes:
        uid: the workload whose listener took it.
        principal: verified identity of the peer, None for plaintext.
        src: address of the peer's end of the TCP connection.
        dst: address asked for: `:authority`, or the original destination.
    """

    uid: WorkloadUid
    principal: SpiffeId | None
    src: SocketAddress
    dst: SocketAddress


def resolve_authority(
    snapshot: MeshSnapshot, uid: WorkloadUid, authority: Authority
) -> SocketAddress | None:
    """The address a CONNECT means: itself, or for a service's host name the port that the service
    maps to on this workload. None if there is no such mapping."""
    if isinstance(authority, SocketAddress):
        return authority
    return next(
        (
            SocketAddress(endpoint.address, endpoint.ports[authority.port])
            for service in snapshot.services.values()
            if service.hostname == authority.host
            for endpoint in service.endpoints
            if endpoint.workload == uid and authority.port in endpoint.ports
        ),
        None,
    )


def plan_inbound(
    snapshot: MeshSnapshot, policies: PolicyIndex, request: InboundRequest
) -> InboundPlan:
    """Decide about an inbound connection."""
    workload = snapshot.workloads.get(request.uid)
    if workload is None or not workload.enrolled:
        return RejectPlan(
            status=UNAVAILABLE,
            flag=ResponseFlag.CONNECT,
            detail=f"{request.uid} is not a workload of this node",
        )
    if request.dst.ip not in workload.addresses:
        return RejectPlan(
            status=BAD_REQUEST,
            flag=ResponseFlag.CONNECT,
            detail=f"{request.dst} is not an address of {workload.uid}",
            workload=workload,
        )
    if request.dst.port in CAPTURE_PORTS:
        return RejectPlan(
            status=UNAVAILABLE,
            flag=ResponseFlag.CONNECT,
            detail=f"port {request.dst.port} belongs to the mesh and is no destination",
            workload=workload,
        )
    facts = ConnectionFacts(principal=request.principal, src=request.src, dst=request.dst)
    return _judge(policies, workload, facts)


def _judge(policies: PolicyIndex, workload: Workload, facts: ConnectionFacts) -> InboundPlan:
    verdict = policies.evaluate(workload, facts)
    if verdict.allowed:
        return AdmitPlan(workload=workload, facts=facts, verdict=verdict)
    return RejectPlan(
        status=UNAUTHORIZED,
        flag=ResponseFlag.DENY,
        detail=str(verdict),
        workload=workload,
        facts=facts,
        verdict=verdict,
    )


def still_allowed(
    snapshot: MeshSnapshot, policies: PolicyIndex, uid: WorkloadUid, facts: ConnectionFacts
) -> Verdict:
    """Judge an open connection again; the workload is looked up anew, so that a relabelled or
    vanished one counts as it is now."""
    workload = snapshot.workloads.get(uid)
    if workload is None or not workload.enrolled:
        return Verdict(allowed=False, decision=Decision.UNKNOWN_DESTINATION)
    return policies.evaluate(workload, facts)
