"""What the maps need when little of what they are computed from has changed. Pure.

Costs what changed and what is enrolled on this node, not what the mesh holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.capture import maps as codec
from agent.capture.desired import Basis, ConfigEntry, ServiceEntry, port_keys
from agent.capture.maps import PRESENT, Entries
from agent.capture.numbering import Membership, Numbering, ServicePortKey
from bpf.layout import pack_ip
from mesh.model.address import IPAddress, SocketAddress
from mesh.model.kernel import KernelPolicy
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import Service, ServiceKey, Workload, WorkloadUid
from mesh.state.delta import SnapshotDelta


@dataclass(frozen=True, slots=True, kw_only=True)
class MapChange:
    """What one map needs: `write` is new or different, `remove` is stale."""

    write: Entries
    remove: frozenset[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """What all maps need.

    Attributes:
        maps: by name; `mn_verdict` too, but not `mn_enrolled`.
        pods: values to refresh in `mn_enrolled`, where there is an entry.
    """

    maps: Mapping[str, MapChange]
    pods: Entries
    config: ConfigEntry


def plan_map(desired: Entries, actual: Entries) -> MapChange:
    """Compare two contents."""
    return MapChange(
        write={key: value for key, value in desired.items() if actual.get(key) != value},
        remove=frozenset(key for key in actual if key not in desired),
    )


def renumber(numbering: Numbering, old: MeshSnapshot, delta: SnapshotDelta) -> Numbering:
    """The numbers for what `delta` makes of `old`."""
    before = {key for name in delta.touched_services for key in _ports(old.services.get(name))}
    after = {key for service in delta.services.values() for key in port_keys(service)}
    return numbering.changed(
        Membership(gone=delta.gone_workloads, there=delta.workloads.keys()),
        Membership(gone=before - after, there=after),
    )


def find_change(old: Basis, new: Basis, delta: SnapshotDelta) -> StateChange:
    """Compare what may differ between two bases, of which `delta` is the way between the
    snapshots."""
    addresses = _touched_addresses(old, new, delta)
    before = {a: entry for a in addresses if (entry := old.workload_at(a)) is not None}
    after = {a: entry for a in addresses if (entry := new.workload_at(a)) is not None}
    were, are = _services(old, delta.touched_services), _services(new, delta.touched_services)
    # A workload that stays gets another policy class: class numbers mean something else now.
    moved = any(a in before and before[a].dst_class != e.dst_class for a, e in after.items())
    moved |= any(
        c in old.pods and old.pods[c].src_class != e.src_class for c, e in new.pods.items()
    )
    return StateChange(
        maps={
            "mn_backend": plan_map(codec.encode_backends(are), codec.encode_backends(were)),
            "mn_service": plan_map(codec.encode_services(are), codec.encode_services(were)),
            "mn_exclude": _plan_set(
                map(codec.encode_exclusion, new.exclusions),
                map(codec.encode_exclusion, old.exclusions),
            ),
            "mn_exclude_net": _plan_set(
                map(codec.encode_net, new.excluded_nets), map(codec.encode_net, old.excluded_nets)
            ),
            "mn_probe": _plan_set(map(pack_ip, new.probes), map(pack_ip, old.probes)),
            "mn_workload": plan_map(codec.encode_workloads(after), codec.encode_workloads(before)),
            "mn_verdict": _verdicts(new.policy, old.policy, moved=moved),
        },
        pods=plan_map(codec.encode_pods(new.pods), codec.encode_pods(old.pods)).write,
        config=new.config,
    )


def _ports(service: Service | None) -> Iterable[ServicePortKey]:
    return () if service is None else port_keys(service)


def _touched_addresses(old: Basis, new: Basis, delta: SnapshotDelta) -> set[IPAddress]:
    uids = set(delta.touched_workloads)
    uids.update(_differing(old.known, new.known))
    uids.update(_differing(old.policy.dst_class, new.policy.dst_class))
    both = (basis.snapshot.workloads.get(uid) for uid in uids for basis in (old, new))
    return {address for workload in both for address in _addresses(workload)}


def _addresses(workload: Workload | None) -> tuple[IPAddress, ...]:
    return () if workload is None or workload.host_network else workload.addresses


def _differing(
    old: Mapping[WorkloadUid, int], new: Mapping[WorkloadUid, int]
) -> Iterable[WorkloadUid]:
    if old is new:
        return ()
    return [uid for uid in old.keys() | new.keys() if old.get(uid) != new.get(uid)]


def _services(basis: Basis, keys: Iterable[ServiceKey]) -> dict[SocketAddress, ServiceEntry]:
    known = basis.snapshot.services
    return dict(basis.services_of(known[key] for key in keys if key in known))


def _plan_set(desired: Iterable[bytes], actual: Iterable[bytes]) -> MapChange:
    return plan_map(dict.fromkeys(desired, PRESENT), dict.fromkeys(actual, PRESENT))


def _verdicts(new: KernelPolicy, old: KernelPolicy, *, moved: bool) -> MapChange:
    if new is old:
        return MapChange(write={}, remove=frozenset())
    wanted, known = codec.encode_verdicts(new.verdicts), codec.encode_verdicts(old.verdicts)
    if moved:
        return MapChange(write=wanted, remove=frozenset(known))
    plan = plan_map(wanted, known)
    # A changed verdict is withdrawn first: the old one may not meet new endpoints.
    return MapChange(write=plan.write, remove=plan.remove | (plan.write.keys() & known.keys()))
