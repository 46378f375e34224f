"""Indexes of a snapshot carried over to the next one, where little changed.

They are found by `MeshSnapshot` itself on first use; at 100,000 workloads that takes longer than
everything else that one change costs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mesh.model.address import IPAddress
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import WAYPOINT_LABEL, Workload, WorkloadUid


def carry_indexes(old: MeshSnapshot, new: MeshSnapshot, touched: Collection[WorkloadUid]) -> None:
    """Fill what `new` would compute from what `old` has computed.

    Args:
        touched: every workload that the two do not share.
    """
    known = vars(old)
    by_address = known.get("by_address")
    if isinstance(by_address, dict) and "by_address" not in vars(new):
        vars(new)["by_address"] = _by_address(by_address, old, new, touched)
    if old.services is new.services and "by_vip" in known:
        vars(new)["by_vip"] = known["by_vip"]
    both = [w for uid in touched for w in (old.workloads.get(uid), new.workloads.get(uid)) if w]
    if "waypoint_workloads" in known and not any(w.labels.get(WAYPOINT_LABEL) for w in both):
        vars(new)["waypoint_workloads"] = known["waypoint_workloads"]
    for node, workloads in old.known_locals.items():
        new.known_locals.setdefault(node, _local(node, workloads, old, new, touched))


def _local(
    node: str,
    before: Sequence[Workload],
    old: MeshSnapshot,
    new: MeshSnapshot,
    touched: Collection[WorkloadUid],
) -> Sequence[Workload]:
    was = {uid for uid in touched if uid in old.workloads and old.workloads[uid].is_local(node)}
    now = {uid for uid in touched if uid in new.workloads and new.workloads[uid].is_local(node)}
    if not was and not now:
        return before
    # Those that stay keep their place: policy classes are numbered in this order.
    kept = [
        w if w.uid not in was else new.workloads[w.uid] for w in before if w.uid not in was - now
    ]
    return [*kept, *(new.workloads[uid] for uid in sorted(now - was))]


def _by_address(
    before: dict[IPAddress, Workload],
    old: MeshSnapshot,
    new: MeshSnapshot,
    touched: Collection[WorkloadUid],
) -> Mapping[IPAddress, Workload]:
    if not touched:
        return before
    found = dict(before)
    for uid in touched:
        for address in _addresses(old.workloads.get(uid)):
            found.pop(address, None)
    for uid in touched:
        workload = new.workloads.get(uid)
        if workload is not None:
            found |= dict.fromkeys(_addresses(workload), workload)
    return found


def _addresses(workload: Workload | None) -> tuple[IPAddress, ...]:
    return () if workload is None or workload.host_network else workload.addresses
