"""`authz check`: what policy would say about a connection, live or from files.

Only the snapshot is asked; nothing is sent. A source that is not enrolled comes without a
verified identity, as it would on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from agent.admin.authz_request import (
    NO_WAYPOINT,
    Called,
    Judged,
    authz_step,
    judge_request,
    no_pods,
    undecided,
)
from agent.admin.question import AuthzAnswer, AuthzParty, AuthzQuestion, AuthzStep
from mesh.errors import ConfigError
from mesh.model.address import IPAddress, SocketAddress, parse_ip
from mesh.model.identity import SpiffeId, parse_spiffe_id
from mesh.model.policy import PolicyKey
from mesh.model.snapshot import MeshSnapshot
from mesh.model.verdict import ConnectionFacts, Decision, RuleRef, Verdict
from mesh.model.workload import Service, ServiceKey, Workload
from mesh.policy.engine import PolicyIndex
from mesh.policy.explain import explain_facts

T = TypeVar("T")

_UNKNOWN: Mapping[int, IPAddress] = {4: IPv4Address(0), 6: IPv6Address(0)}
_NOT_ENROLLED = Verdict(allowed=True, decision=Decision.NO_POLICY)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    principal: SpiffeId | None
    addresses: tuple[IPAddress, ...]
    workload: Workload | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    workload: Workload
    addresses: tuple[IPAddress, ...]
    port: int
    service: Service | None = None


def check_authz(snapshot: MeshSnapshot, question: AuthzQuestion) -> AuthzAnswer:
    """Answer a question; raise `ConfigError` for a name or port that makes no sense."""
    if not 0 < question.port < 65536:
        raise ConfigError(f"{question.port} is not a port: use 1 to 65535")
    src = _source(snapshot, question.src)
    dst = _target(snapshot, question.dst, question.port)
    src_ip, dst_ip = _pair(src.addresses, dst.addresses)
    facts = ConnectionFacts(
        principal=src.principal,
        src=SocketAddress(src_ip or _UNKNOWN[dst_ip.version], 0),
        dst=SocketAddress(dst_ip, dst.port),
    )
    judged = _judge(snapshot, question, dst, facts)
    verdict = judged.verdict
    return AuthzAnswer(
        allowed=verdict.allowed,
        decision=verdict.decision,
        decided_by=verdict.decided_by,
        src=_party(src.workload, src_ip, src.principal),
        dst=_party(dst.workload, dst_ip, dst.workload.identity),
        port=dst.port,
        revision=snapshot.revision,
        steps=judged.steps,
        audited=verdict.audited,
        dry_run=verdict.dry_run,
        waypoint=judged.waypoint,
        providers=judged.providers,
    )


def _judge(
    snapshot: MeshSnapshot, question: AuthzQuestion, dst: _Target, facts: ConnectionFacts
) -> Judged:
    """Judge the connection, or the request and the connection that its waypoint makes."""
    if not dst.workload.enrolled:
        return Judged(verdict=_NOT_ENROLLED, steps=(_step_not_enrolled(dst.workload),))
    index, request = PolicyIndex.compile(snapshot), question.request
    waypoint = (dst.service.waypoint if dst.service else None) or dst.workload.waypoint
    if request is None:
        return _connection(index, dst.workload, facts)
    if waypoint is None:
        found = _connection(index, dst.workload, facts)
        return replace(found, steps=(NO_WAYPOINT, *found.steps))
    pods = sorted(index.waypoint_identities(waypoint))
    if not pods:
        gone = RuleRef(kind="Waypoint", policy=PolicyKey(waypoint))
        verdict = Verdict(allowed=False, decision=Decision.WAYPOINT_REQUIRED, decided_by=gone)
        return Judged(verdict=verdict, steps=(no_pods(waypoint),), waypoint=waypoint)
    service_port = replace(facts.dst, port=question.port)
    called = Called(waypoint=waypoint, service=dst.service, address=service_port)
    seen = judge_request(snapshot, called, facts, request)
    # The waypoint makes its own connection to the destination, as itself.
    onward = _connection(index, dst.workload, replace(facts, principal=pods[0]))
    if not seen.verdict.allowed or onward.verdict.allowed:
        return replace(seen, steps=(*seen.steps, *map(undecided, onward.steps)))
    return replace(onward, steps=(*map(undecided, seen.steps), *onward.steps), waypoint=waypoint)


def _connection(index: PolicyIndex, dst: Workload, facts: ConnectionFacts) -> Judged:
    explanation = explain_facts(index, dst, facts)
    return Judged(verdict=explanation.verdict, steps=tuple(map(authz_step, explanation.steps)))


def _pair(src: Sequence[IPAddress], dst: Sequence[IPAddress]) -> tuple[IPAddress | None, IPAddress]:
    """The first two addresses of one family; without such, the source's is not known."""
    for dst_ip in dst:
        for src_ip in src:
            if src_ip.version == dst_ip.version:
                return src_ip, dst_ip
    return None, dst[0]


def _step_not_enrolled(dst: Workload) -> AuthzStep:
    return AuthzStep(
        what=dst.uid,
        action="",
        result="not enrolled",
        detail="the destination is not in the mesh, so nobody enforces policy for it",
        decided=True,
    )


def _source(snapshot: MeshSnapshot, text: str) -> _Source:
    if text.startswith("spiffe://"):
        identity = parse_spiffe_id(text)
        holder = _first(w for w in snapshot.workloads.values() if w.identity == identity)
        addresses = holder.addresses if holder else ()
        return _Source(principal=identity, addresses=addresses, workload=holder)
    if "/" in text:
        workload = _workload(snapshot, text)
        if workload is None:
            raise _unknown(snapshot, "workload", text)
        return _of_workload(workload, workload.addresses)
    address = parse_ip(text)
    known = snapshot.by_address.get(address)
    if known is None:
        return _Source(principal=None, addresses=(address,), workload=None)
    return _of_workload(known, (address,))


def _of_workload(workload: Workload, addresses: tuple[IPAddress, ...]) -> _Source:
    principal = workload.identity if workload.enrolled else None
    return _Source(principal=principal, addresses=addresses, workload=workload)


def _target(snapshot: MeshSnapshot, text: str, port: int) -> _Target:
    if text.startswith("spiffe://"):
        identity = parse_spiffe_id(text)
        workload = _first(w for w in snapshot.workloads.values() if w.identity == identity)
        service = None
    elif "/" in text:
        workload = _workload(snapshot, text)
        service = None if workload else snapshot.services.get(ServiceKey(text))
    else:
        address = parse_ip(text)
        workload = snapshot.by_address.get(address)
        service = snapshot.by_vip.get(address)
        if workload is not None:
            return _Target(workload=workload, addresses=(address,), port=port)
    if service is not None:
        return _backend(snapshot, service, port)
    if workload is None:
        raise _unknown(snapshot, "workload or service", text)
    if not workload.addresses:
        raise ConfigError(f"{workload.uid} has no address yet: nobody can connect to it")
    return _Target(workload=workload, addresses=workload.addresses, port=port)


def _backend(snapshot: MeshSnapshot, service: Service, port: int) -> _Target:
    """The first endpoint of a service that takes the port; policy is the workload's."""
    if port not in {known.port for known in service.ports}:
        ports = ", ".join(str(known.port) for known in service.ports) or "none"
        raise ConfigError(f"service {service.key} has no port {port}; it has: {ports}")
    for endpoint in service.endpoints:
        workload = snapshot.workloads.get(endpoint.workload) if endpoint.workload else None
        if workload is not None and endpoint.ready and port in endpoint.ports:
            return _Target(
                workload=workload,
                addresses=(endpoint.address,),
                port=endpoint.ports[port],
                service=service,
            )
    raise ConfigError(f"service {service.key} has no ready endpoint in the mesh for port {port}")


def _workload(snapshot: MeshSnapshot, text: str) -> Workload | None:
    namespace, _, name = text.rpartition("/")
    return _first(
        w
        for w in snapshot.workloads.values()
        if w.uid == text or (w.namespace, w.name) == (namespace, name)
    )


def _unknown(snapshot: MeshSnapshot, kind: str, text: str) -> ConfigError:
    names = [f"{w.namespace}/{w.name}" for w in snapshot.workloads.values()]
    names += snapshot.services
    close = get_close_matches(text, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return ConfigError(f"no {kind} {text!r} is known{hint}")


def _party(
    workload: Workload | None, address: IPAddress | None, identity: SpiffeId | None
) -> AuthzParty:
    return AuthzParty(
        workload=workload.uid if workload else "",
        address=str(address) if address else "",
        identity=str(identity) if identity else "",
    )


def _first(values: Iterable[T]) -> T | None:
    return next(iter(values), None)
