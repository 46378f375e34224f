"""Where a captured outbound connection goes: a tunnel, a plain connection, or nowhere. Pure.

The address the client dialled is a service's virtual address, a workload's address, or unknown.
Unknown destinations are relayed as they are: they are outside the mesh, and a destination inside
it decides for itself whether it takes plaintext.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mesh.model.address import SocketAddress
from mesh.model.connection import ResponseFlag
from mesh.model.identity import SpiffeId
from mesh.model.snapshot import MeshSnapshot, SameNode
from mesh.model.workload import WAYPOINT_LABEL, Endpoint, Service, Workload, WorkloadUid

HBONE_PORT = 15008
CAPTURE_PORTS = frozenset({15001, 15006, HBONE_PORT})
"""Ports of our own listeners in a pod: never a destination (they would loop)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelPlan:
    """Go through HBONE.

    Attributes:
        peer: address of the tunnel's far end.
        authority: what the CONNECT asks for.
        expected: identities the peer may prove.
        destination: workload that the bytes are for.
        service: the service the client addressed, if any.
    """

    peer: SocketAddress
    authority: SocketAddress
    expected: frozenset[SpiffeId]
    destination: Workload
    service: Service | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PassthroughPlan:
    """Go there as plain TCP."""

    address: SocketAddress
    destination: Workload | None
    service: Service | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusePlan:
    """Go nowhere; the client sees a reset."""

    flag: ResponseFlag
    detail: str
    destination: Workload | None = None
    service: Service | None = None


OutboundPlan = TunnelPlan | PassthroughPlan | RefusePlan

Chooser = Callable[[Sequence[Endpoint]], Endpoint]
"""Picks one of several endpoints (never called with none): least loaded of two."""


def plan_outbound(
    snapshot: MeshSnapshot, source: Workload, dialled: SocketAddress, choose: Chooser
) -> OutboundPlan:
    """Decide about a connection that `source` opened to `dialled`."""
    if dialled.port in CAPTURE_PORTS:
        return RefusePlan(
            flag=ResponseFlag.CONNECT,
            detail=f"port {dialled.port} belongs to the mesh and is no destination",
        )
    service = snapshot.by_vip.get(dialled.ip)
    if service is not None:
        return _plan_service(snapshot, source, service, dialled, choose)
    workload = snapshot.by_address.get(dialled.ip)
    if workload is None:
        return PassthroughPlan(address=dialled, destination=None, service=None)
    return _plan_workload(snapshot, source, workload, dialled, None, choose)


def _plan_service(
    snapshot: MeshSnapshot,
    source: Workload,
    service: Service,
    dialled: SocketAddress,
    choose: Chooser,
) -> OutboundPlan:
    port = dialled.port
    if port not in {p.port for p in service.ports}:
        return RefusePlan(
            flag=ResponseFlag.NO_HEALTHY_UPSTREAM,
            detail=f"service {service.key} has no port {port}",
            service=service,
        )
    if service.waypoint is not None and not _is_waypoint(source, service.waypoint):
        # Before endpoints are looked at: routes may lead elsewhere, and the answer is HTTP's.
        return _plan_waypoint(snapshot, service.waypoint, dialled, None, service, choose)
    # Of the family that was dialled, as in the kernel: the destination sees the client in it.
    candidates = [
        e
        for e in service.endpoints
        if e.ready and port in e.ports and e.address.version == dialled.ip.version
    ]
    if not candidates:
        return RefusePlan(
            flag=ResponseFlag.NO_HEALTHY_UPSTREAM,
            detail=f"service {service.key} has no ready endpoint for port {port}",
            service=service,
        )
    chosen = choose(_prefer_other_nodes(snapshot, source, candidates))
    address = SocketAddress(chosen.address, chosen.ports[port])
    workload = snapshot.workloads.get(chosen.workload) if chosen.workload else None
    if workload is None:
        return PassthroughPlan(address=address, destination=None, service=service)
    return _plan_workload(snapshot, source, workload, address, service, choose)


def _prefer_other_nodes(
    snapshot: MeshSnapshot, source: Workload, candidates: Sequence[Endpoint]
) -> Sequence[Endpoint]:
    """Leave out endpoints of the same node: the kernel already gave them their share.

    At `connect()` it picks among *all* endpoints and sends the connection here only if its pick
    is on another node; choosing a local one now would count those twice. Where only local ones
    exist (encrypted same-node traffic, or a verdict still missing) they are used.
    """
    if snapshot.settings.same_node is SameNode.ENCRYPT:
        return candidates
    remote = [e for e in candidates if not _is_on_node(snapshot, e, source.node)]
    return remote or candidates


def _is_on_node(snapshot: MeshSnapshot, endpoint: Endpoint, node: str) -> bool:
    workload = snapshot.workloads.get(endpoint.workload) if endpoint.workload else None
    return workload is not None and workload.enrolled and workload.node == node


def _plan_workload(
    snapshot: MeshSnapshot,
    source: Workload,
    workload: Workload,
    address: SocketAddress,
    service: Service | None,
    choose: Chooser,
) -> OutboundPlan:
    if not workload.enrolled:
        return PassthroughPlan(address=address, destination=workload, service=service)
    if workload.waypoint is not None and not _is_waypoint(source, workload.waypoint):
        return _plan_waypoint(snapshot, workload.waypoint, address, workload, service, choose)
    return TunnelPlan(
        peer=SocketAddress(address.ip, HBONE_PORT),
        authority=address,
        expected=frozenset({workload.identity}),
        destination=workload,
        service=service,
    )


def _is_waypoint(workload: Workload, waypoint: str) -> bool:
    """Whether a workload is a pod of that waypoint, which reaches its destinations directly."""
    name = workload.labels.get(WAYPOINT_LABEL)
    return bool(name) and f"{workload.namespace}/{name}" == waypoint


def _plan_waypoint(
    snapshot: MeshSnapshot,
    waypoint: str,
    authority: SocketAddress,
    destination: Workload | None,
    service: Service | None,
    choose: Chooser,
) -> OutboundPlan:
    """Through a ready pod of a waypoint, with the address that was asked for; never past it."""
    pods = {pod.uid: pod for pod in snapshot.waypoint_workloads.get(waypoint, ()) if pod.ready}
    candidates = [
        Endpoint(address=address, workload=pod.uid, ports={})
        for pod in pods.values()
        for address in pod.addresses
        if address.version == authority.ip.version
    ]
    if not candidates:
        what = service.key if service is not None else destination.uid if destination else authority
        return RefusePlan(
            flag=ResponseFlag.NO_HEALTHY_UPSTREAM,
            detail=f"traffic to {what} must pass waypoint {waypoint}, which has no ready endpoint",
            destination=destination,
            service=service,
        )
    chosen = choose(candidates)
    pod = pods[chosen.workload or WorkloadUid("")]
    return TunnelPlan(
        peer=SocketAddress(chosen.address, HBONE_PORT),
        authority=authority,
        expected=frozenset({pod.identity}),
        destination=pod,
        service=service,
    )
