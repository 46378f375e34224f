"""All pods and Workload objects, as workloads of which every address has one owner.

An address belongs to one workload: identity on the way in is looked up by it. Where two claim
the same one, whoever held it keeps it; where nobody did, the smaller uid has it, on every node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mesh.model.address import IPAddress
from mesh.model.codes import Code
from mesh.model.snapshot import MeshSnapshot, Problem
from mesh.model.workload import Workload, WorkloadUid
from mesh.sources.objects import SourceObject
from mesh.state.claims import Claims
from mesh.state.context import Context
from mesh.state.workloads import Member, read_member, workload_uid


@dataclass(frozen=True, slots=True)
class MemberChange:
    """A member before and after; None where it was, or is, none."""

    before: Member | None
    after: Member | None

    @property
    def is_seen(self) -> bool:
        """Whether the workload differs, and not only what stands behind it."""
        before = self.before.workload if self.before is not None else None
        after = self.after.workload if self.after is not None else None
        return before is not after


@dataclass(slots=True)
class _Slot:
    """An object and what it makes: `read` by itself, `settled` beside all others."""

    source: SourceObject
    read: Member | None = None
    settled: Member | None = None


MemberChanges = Mapping[WorkloadUid, MemberChange]


class Members:
    """What was read of every pod and Workload. Changed by `update` only."""

    def __init__(self, previous: MeshSnapshot | None) -> None:
        self._slots: dict[str, dict[WorkloadUid, _Slot]] = {}
        self._claims: Claims[WorkloadUid] = Claims()
        self._read_problems: dict[WorkloadUid, tuple[Problem, ...]] = {}
        self._address_problems: dict[WorkloadUid, tuple[Problem, ...]] = {}
        self._problems: Sequence[Problem] | None = None
        self._held: Mapping[IPAddress, Workload] = previous.by_address if previous else {}
        self._kept: Mapping[WorkloadUid, Workload] = previous.workloads if previous else {}
        self.by_address: dict[IPAddress, Workload] = {}
        self.workloads: dict[WorkloadUid, Workload] = {}
        """Neither is changed in place: snapshots share them."""

    @property
    def problems(self) -> Sequence[Problem]:
        """What is wrong with objects, by uid."""
        if self._problems is None:
            read, address = self._read_problems, self._address_problems
            self._problems = [
                problem
                for uid in sorted(read.keys() | address.keys())
                for problem in (*read.get(uid, ()), *address.get(uid, ()))
            ]
        return self._problems

    def member(self, uid: WorkloadUid) -> Member | None:
        """Find a member."""
        slot = self._slot(uid)
        return slot.settled if slot is not None else None

    def of_namespace(self, namespace: str) -> Iterator[Member]:
        """All members of a namespace."""
        for slot in self._slots.get(namespace, {}).values():
            if slot.settled is not None:
                yield slot.settled

    def uids(self, namespaces: Iterable[str] | None = None) -> list[WorkloadUid]:
        """All objects of namespaces, also those that are no members; None = everywhere."""
        chosen = self._slots if namespaces is None else namespaces
        return [uid for name in chosen for uid in self._slots.get(name, ())]

    def has(self, source: SourceObject) -> bool:
        """Whether there is an object of this name."""
        return workload_uid(source) in self._slots.get(source.namespace, ())

    def update(
        self,
        removed: Iterable[SourceObject],
        added: Iterable[SourceObject],
        again: Iterable[WorkloadUid],
        context: Context,
    ) -> MemberChanges:
        """Take objects in and out, and read some again because their surroundings changed."""
        before: dict[WorkloadUid, Member | None] = {}
        contested: set[IPAddress] = set()
        for source in removed:
            uid = workload_uid(source)
            old = self._slots[source.namespace].pop(uid)
            before[uid] = old.settled
            contested.update(self._unread(uid, old.read))
            if not self._slots[source.namespace]:
                del self._slots[source.namespace]
        for source in added:
            uid = workload_uid(source)
            before.setdefault(uid, None)
            made = self._slots.setdefault(source.namespace, {})[uid] = _Slot(source)
            contested.update(self._read(uid, made, context))
        for uid in again:
            slot = self._slot(uid)
            if slot is not None and uid not in before:
                before[uid] = slot.settled
                contested.update(self._unread(uid, slot.read))
                contested.update(self._read(uid, slot, context))
        return self._settle(before, contested, context)

    def _slot(self, uid: WorkloadUid) -> _Slot | None:
        namespace = uid.split("/", 2)[1]
        return self._slots.get(namespace, {}).get(uid)

    def _read(self, uid: WorkloadUid, slot: _Slot, context: Context) -> Iterable[IPAddress]:
        """Read an object; return addresses that others claim too."""
        slot.read = member = read_member(slot.source, uid, context)
        self._note(self._read_problems, uid, context)
        addresses = _claimed(member)
        self._claims.add(addresses, uid)
        return [a for a in addresses if len(self._claims.owners(a)) > 1]

    def _unread(self, uid: WorkloadUid, read: Member | None) -> Iterable[IPAddress]:
        """Forget what an object made; return addresses that others claim."""
        for known in (self._read_problems, self._address_problems):
            if known.pop(uid, None):
                self._problems = None
        addresses = _claimed(read)
        self._claims.drop(addresses, uid)
        return [a for a in addresses if self._claims.owners(a)]

    def _note(
        self,
        known: dict[WorkloadUid, tuple[Problem, ...]],
        uid: WorkloadUid,
        context: Context,
    ) -> None:
        """Keep what was reported of an object just now, instead of what was before."""
        problems = context.take_problems()
        if problems != known.get(uid, ()):
            self._problems = None
            if problems:
                known[uid] = problems
            else:
                del known[uid]

    # -- addresses ------------------------------------------------------------------------------

    def _settle(
        self,
        before: dict[WorkloadUid, Member | None],
        contested: Iterable[IPAddress],
        context: Context,
    ) -> MemberChanges:
        holders: dict[IPAddress, WorkloadUid] = {}
        for uid in {uid for a in contested for uid in self._claims.owners(a)} - before.keys():
            before[uid] = self.member(uid)
        changes: dict[WorkloadUid, MemberChange] = {}
        for uid, was in before.items():
            slot = self._slot(uid)
            if slot is not None:
                slot.settled = self._settled(uid, slot, was, holders, context)
            now = slot.settled if slot is not None else None
            if was is not now:
                changes[uid] = MemberChange(was, now)
        if changes:
            self._index(changes)
        self._held, self._kept = self.by_address, {}
        return changes

    def _settled(
        self,
        uid: WorkloadUid,
        slot: _Slot,
        was: Member | None,
        holders: dict[IPAddress, WorkloadUid],
        context: Context,
    ) -> Member | None:
        """The member with the addresses that are its own; the former object where it is equal."""
        member = slot.read
        if member is None:
            return None
        workload, claimed = member.workload, member.workload.addresses
        own = tuple(a for a in claimed if self._holder(a, uid, holders) == uid)
        if workload.host_network:
            own = claimed
        for address in claimed:
            if address not in own:
                self._report(member, address, holders, context)
        self._note(self._address_problems, uid, context)
        if not own:
            return None
        if own != claimed:
            workload = replace(workload, addresses=own)
        kept = was.workload if was is not None else self._kept.get(uid)
        if kept is not None and kept == workload:
            workload = kept
        if workload is not member.workload:
            member = replace(member, workload=workload)
        member = was if was == member else member
        if own == claimed:
            slot.read = member  # One object for both, where nothing is contested.
        return member

    def _holder(
        self, address: IPAddress, uid: WorkloadUid, holders: dict[IPAddress, WorkloadUid]
    ) -> WorkloadUid:
        known = holders.get(address)
        if known is None:
            owners = self._claims.owners(address)
            if len(owners) < 2:
                return uid
            held = self._held.get(address)
            known = held.uid if held is not None and held.uid in owners else min(owners)
            holders[address] = known
        return known

    def _report(
        self,
        member: Member,
        address: IPAddress,
        holders: Mapping[IPAddress, WorkloadUid],
        context: Context,
    ) -> None:
        slot = self._slot(holders[address])
        if slot is not None:
            other = slot.source
            message = f"address {address} belongs to {other.subject} ({other.where})"
            context.report(member.source, Code.ADDRESS_TAKEN, message)

    def _index(self, changes: MemberChanges) -> None:
        seen = {uid: change for uid, change in changes.items() if change.is_seen}
        if not seen:
            return
        by_address, workloads = dict(self.by_address), dict(self.workloads)
        for uid, change in seen.items():
            for address in _claimed(change.before):
                by_address.pop(address, None)
            if change.after is None:
                del workloads[uid]
        for uid, change in seen.items():
            if change.after is not None:
                workloads[uid] = change.after.workload
                by_address |= dict.fromkeys(_claimed(change.after), change.after.workload)
        self.by_address, self.workloads = by_address, workloads


def _claimed(member: Member | None) -> tuple[IPAddress, ...]:
    """Host-network pods share the node's addresses: they claim none."""
    if member is None or member.workload.host_network:
        return ()
    return member.workload.addresses
