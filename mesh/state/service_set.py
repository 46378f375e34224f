"""All services, of which each is read again when something that it is made of changed.

A service is made of its object, its slices, its namespace's labels, and the members that its
endpoints stand for. A virtual address claimed twice belongs to the smaller key, on every node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from mesh.model.address import IPAddress
from mesh.model.codes import Code
from mesh.model.snapshot import MeshSnapshot, Problem
from mesh.model.workload import Service, ServiceKey
from mesh.sources.objects import EndpointSliceObject, ServiceObject, SourceObject
from mesh.state.claims import Claims
from mesh.state.context import Context
from mesh.state.members import MemberChange, MemberChanges, Members
from mesh.state.services import read_service, selects
from mesh.state.slices import Mark, SliceIndex
from mesh.state.workloads import Member


@dataclass(slots=True)
class _Slot:
    """A Service object and what it makes."""

    source: SourceObject
    body: ServiceObject
    read: Service | None = None
    problems: tuple[Problem, ...] = ()
    """What is wrong with the object by itself."""


class ServiceSet:
    """What was read of every Service and EndpointSlice. Changed by `update` only."""

    def __init__(self, members: Members, previous: MeshSnapshot | None) -> None:
        self._members = members
        self._slots: dict[ServiceKey, _Slot] = {}
        self._by_namespace: dict[str, set[ServiceKey]] = {}
        self._slices = SliceIndex(members)
        self._claims: Claims[ServiceKey] = Claims()
        self._problems: dict[ServiceKey, tuple[Problem, ...]] = {}
        self._kept: Mapping[ServiceKey, Service] = previous.services if previous else {}
        self.services: Mapping[ServiceKey, Service] = {}
        """Never changed in place: snapshots share it."""

    @property
    def problems(self) -> Iterator[Problem]:
        """What is wrong with slices, then with services, by name."""
        yield from self._slices.problems
        for key in sorted(self._problems):
            yield from self._problems[key]

    def has(self, source: SourceObject) -> bool:
        """Whether there is an object of this name."""
        if isinstance(source.body, EndpointSliceObject):
            return self._slices.has(source)
        return ServiceKey(f"{source.namespace}/{source.name}") in self._slots

    def update(
        self,
        removed: Iterable[SourceObject],
        added: Iterable[SourceObject],
        members: MemberChanges,
        namespaces: Iterable[str],
        context: Context,
    ) -> None:
        """Take objects in and out, and read again what members and namespaces concern.

        Args:
            namespaces: whose labels changed.
        """
        dirty: set[ServiceKey] = set()
        gone: dict[ServiceKey, Service | None] = {}
        for source in removed:
            self._remove(source, dirty, gone, context)
        for source in added:
            self._add(source, dirty, context)
        for namespace in namespaces:
            dirty |= self._by_namespace.get(namespace, set())
        dirty.update(self._concerned(members))
        contested: set[IPAddress] = set()
        for key in gone.keys() | dirty:
            slot = self._slots.get(key)
            before = slot.read if slot is not None and slot.read else gone.get(key)
            if before is not None:
                self._claims.drop(before.addresses, key)
                contested.update(a for a in before.addresses if self._claims.owners(a))
            if slot is not None:
                contested |= self._read(key, slot, context)
        self._settle(gone.keys() | dirty, contested, context)

    def _remove(
        self,
        source: SourceObject,
        dirty: set[ServiceKey],
        gone: dict[ServiceKey, Service | None],
        context: Context,
    ) -> None:
        body = source.body
        if isinstance(body, EndpointSliceObject):
            key = self._slices.service_key(source)
            self._slices.remove(source, body, context)
            if key is not None:
                dirty.add(key)
        else:
            key = ServiceKey(f"{source.namespace}/{source.name}")
            gone[key] = self._slots.pop(key).read
            self._by_namespace[source.namespace].discard(key)
            if not self._by_namespace[source.namespace]:
                del self._by_namespace[source.namespace]

    def _add(self, source: SourceObject, dirty: set[ServiceKey], context: Context) -> None:
        body = source.body
        if isinstance(body, EndpointSliceObject):
            self._slices.add(source, body, context)
            key = self._slices.service_key(source)
            if key is not None:
                dirty.add(key)
        elif isinstance(body, ServiceObject):
            key = ServiceKey(f"{source.namespace}/{source.name}")
            self._slots[key] = _Slot(source, body)
            self._by_namespace.setdefault(source.namespace, set()).add(key)
            dirty.add(key)

    def _read(self, key: ServiceKey, slot: _Slot, context: Context) -> set[IPAddress]:
        """Read a service; return addresses that others claim too."""
        slices = self._slices.of(key)
        slot.read = read_service(slot.source, slot.body, slices, self._members, context)
        slot.problems = context.take_problems()
        self._claims.add(slot.read.addresses, key)
        return {a for a in slot.read.addresses if len(self._claims.owners(a)) > 1}

    # -- which services members concern ---------------------------------------------------------

    def _concerned(self, changes: MemberChanges) -> Iterator[ServiceKey]:
        selecting: dict[str, list[_Slot]] = {}
        for uid, change in changes.items():
            marks: list[Mark] = []
            if (change.before is None) != (change.after is None):
                marks.append(uid)
            marks += _moved(change)
            yield from self._slices.services_of(marks)
            namespace = uid.split("/", 2)[1]
            if namespace not in selecting:
                selecting[namespace] = self._selecting(namespace)
            for slot in selecting[namespace]:
                chosen = (change.before, change.after)
                if any(m is not None and selects(slot.body.spec.selector, m) for m in chosen):
                    yield ServiceKey(f"{namespace}/{slot.source.name}")

    def _selecting(self, namespace: str) -> list[_Slot]:
        """Services whose endpoints come from their selector."""
        slots = (self._slots[key] for key in self._by_namespace.get(namespace, ()))
        return [
            slot
            for slot in slots
            if slot.body.spec.selector
            and self._slices.of(ServiceKey(f"{namespace}/{slot.source.name}")) is None
        ]

    # -- virtual addresses ----------------------------------------------------------------------

    def _settle(
        self, touched: Iterable[ServiceKey], contested: Iterable[IPAddress], context: Context
    ) -> None:
        """Give every virtual address to one of the services that claim it."""
        keys = {*touched, *(key for a in contested for key in self._claims.owners(a))}
        changed: dict[ServiceKey, Service] = {}
        gone: list[ServiceKey] = []
        for key in keys:
            self._problems.pop(key, None)
            slot = self._slots.get(key)
            if slot is None or slot.read is None:
                if key in self.services:
                    gone.append(key)
                continue
            service = self._settled(key, slot, slot.read, context)
            kept = self.services.get(key) or self._kept.get(key)
            if kept is not None and kept == service:
                service = kept
            if service is not self.services.get(key):
                changed[key] = service
        self._kept = {}
        if changed or gone:
            services = {**self.services, **changed}
            for key in gone:
                del services[key]
            self.services = services

    def _settled(self, key: ServiceKey, slot: _Slot, service: Service, context: Context) -> Service:
        holders = {vip: min(self._claims.owners(vip)) for vip in service.addresses}
        for vip, holder in holders.items():
            if holder != key:
                other = self._slots[holder].source
                message = f"address {vip} belongs to {other.subject} ({other.where})"
                context.report(slot.source, Code.VIP_TAKEN, message)
        if problems := (*slot.problems, *context.take_problems()):
            self._problems[key] = problems
        own = tuple(vip for vip in service.addresses if holders[vip] == key)
        return service if own == service.addresses else replace(service, addresses=own)


def _moved(change: MemberChange) -> Iterable[IPAddress]:
    """Addresses at which another workload, or none, answers now."""
    before, after = _answering(change.before), _answering(change.after)
    return () if before == after else (*before, *after)


def _answering(member: Member | None) -> tuple[IPAddress, ...]:
    if member is None or member.workload.host_network:
        return ()
    return member.workload.addresses
