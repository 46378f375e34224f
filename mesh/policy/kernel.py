"""Policy between the enrolled workloads of one node, as a table for the kernel.

A direct connection counts as authenticated: its identity comes from the kernel. So
PeerAuthentication never matters here, and every verdict is what `PolicyIndex.evaluate` says with
the source's identity. What the kernel cannot decide alone (L7, waypoints, verdicts that depend on
which of its addresses a workload uses) goes through ztunnel. No entry means the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mesh.model.address import IPAddress, SocketAddress
from mesh.model.kernel import (
    KernelPolicy,
    KernelVerdict,
    VerdictKey,
    VerdictReason,
    VerdictValue,
)
from mesh.model.snapshot import MeshSnapshot, SameNode
from mesh.model.verdict import ConnectionFacts, Decision, Verdict
from mesh.model.workload import Workload, WorkloadUid
from mesh.policy.engine import PolicyIndex
from mesh.policy.layer import Layer

_TO_ZTUNNEL = (Decision.NEEDS_L7, Decision.WAYPOINT_REQUIRED)


def compile_kernel_policy(index: PolicyIndex, snapshot: MeshSnapshot, node: str) -> KernelPolicy:
    """Compile the verdicts between the enrolled workloads of a node.

    A port whose verdict is that of port 0 (every other port) has no entry of its own.
    """
    local = [item for item in snapshot.local_workloads(node) if item.addresses]
    layers = {item.uid: index.destination(item).layers for item in local}
    by_src_ip = any(layer.uses_src_ips for own in layers.values() for layer in own)
    by_dst_ip = any(layer.uses_dst_ips for own in layers.values() for layer in own)
    sources = _classes((item, _source_group(item, by_src_ip, by_dst_ip)) for item in local)
    destinations = _classes((item, _destination_group(item, layers[item.uid])) for item in local)
    table = _Table()
    if snapshot.settings.same_node is SameNode.DIRECT:
        for dst_class, dst in destinations.first.items():
            for src_class, src in sources.first.items():
                judge = _Judge(index, src, dst)
                _fill(table, judge, src_class, dst_class, _named_ports(layers[dst.uid]))
    return KernelPolicy(
        src_class=sources.numbers,
        dst_class=destinations.numbers,
        verdicts=table.verdicts,
        reasons=tuple(table.reasons),
    )


@dataclass(frozen=True, slots=True)
class _Classes:
    """Class numbers, and one workload to judge each class by."""

    numbers: Mapping[WorkloadUid, int]
    first: Mapping[int, Workload]


def _classes(grouped: Iterable[tuple[Workload, object]]) -> _Classes:
    known: dict[object, int] = {}
    numbers: dict[WorkloadUid, int] = {}
    first: dict[int, Workload] = {}
    for workload, group in grouped:
        number = numbers[workload.uid] = known.setdefault(group, len(known) + 1)
        first.setdefault(number, workload)
    return _Classes(numbers, first)


def _source_group(workload: Workload, by_src_ip: bool, by_dst_ip: bool) -> object:
    """What policy can tell sources apart by."""
    if by_src_ip:
        return workload.identity, workload.addresses
    # Which of a destination's addresses a source can use follows from its own families.
    families = frozenset(address.version for address in workload.addresses)
    return workload.identity, families if by_dst_ip else None


def _destination_group(workload: Workload, layers: Sequence[Layer]) -> object:
    """What policy can tell destinations apart by."""
    # Addresses may decide as destination IPs, and as source IPs only together with their family.
    by_address = any(layer.uses_dst_ips or layer.uses_src_ips for layer in layers)
    keys = tuple(policy.key for layer in layers for policy in layer.policies)
    return keys, workload.waypoint, workload.addresses if by_address else None


def _named_ports(layers: Iterable[Layer]) -> frozenset[int]:
    return frozenset(port for layer in layers for port in layer.named_ports)


@dataclass(frozen=True, slots=True)
class _Judge:
    """Judges connections between two workloads."""

    index: PolicyIndex
    src: Workload
    dst: Workload

    def verdict(self, port: int) -> VerdictReason | None:
        """Judge a port; None where the addresses that are used would decide."""
        verdicts = {self._evaluate(src, dst, port) for src, dst in self._routes()}
        if len(verdicts) != 1:
            return None
        only = verdicts.pop()
        return VerdictReason(only.decision, only.decided_by, only.audited, only.dry_run)

    def _routes(self) -> list[tuple[IPAddress, IPAddress]]:
        """Pairs of addresses of one family. Without any, addresses do not matter: others of the
        two classes may have some, and where policy looks at addresses a class has one set."""
        routes = [
            (src, dst)
            for src in self.src.addresses
            for dst in self.dst.addresses
            if src.version == dst.version
        ]
        return routes or [(self.src.addresses[0], self.dst.addresses[0])]

    def _evaluate(self, src: IPAddress, dst: IPAddress, port: int) -> Verdict:
        facts = ConnectionFacts(
            principal=self.src.identity, src=SocketAddress(src, 0), dst=SocketAddress(dst, port)
        )
        return self.index.evaluate(self.dst, facts)


@dataclass(slots=True)
class _Table:
    verdicts: dict[VerdictKey, VerdictValue] = field(default_factory=dict)
    reasons: list[VerdictReason] = field(default_factory=list)
    numbers: dict[VerdictReason, int] = field(default_factory=dict)

    def value(self, reason: VerdictReason) -> VerdictValue:
        number = self.numbers.setdefault(reason, len(self.reasons))
        if number == len(self.reasons):
            self.reasons.append(reason)
        return VerdictValue(_kernel_verdict(reason.decision), number)


_UNDECIDED = VerdictReason(Decision.NEEDS_L7, None)


def _kernel_verdict(decision: Decision) -> KernelVerdict:
    if decision in _TO_ZTUNNEL:
        return KernelVerdict.PROXY
    allowed = decision in (Decision.NO_POLICY, Decision.ALLOW_RULE)
    return KernelVerdict.ALLOW if allowed else KernelVerdict.DENY


def _fill(table: _Table, judge: _Judge, src: int, dst: int, named: frozenset[int]) -> None:
    rest: VerdictValue | None = None
    other = next((port for port in range(1, 65536) if port not in named), None)
    if other is not None:
        rest = table.value(judge.verdict(other) or _UNDECIDED)
        table.verdicts[VerdictKey(src, dst, 0)] = rest
    for port in sorted(named):
        value = table.value(judge.verdict(port) or _UNDECIDED)
        if value != rest:
            table.verdicts[VerdictKey(src, dst, port)] = value
