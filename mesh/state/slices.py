"""EndpointSlices by service, and which services an address or a workload may belong to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mesh.model.address import IPAddress
from mesh.model.codes import Code
from mesh.model.snapshot import Problem
from mesh.model.workload import ServiceKey, WorkloadUid
from mesh.sources.objects import EndpointSliceObject, SourceObject
from mesh.state.context import Context
from mesh.state.members import Members
from mesh.state.services import names_addresses, target_uid

SERVICE_LABEL = "kubernetes.io/service-name"

Mark = IPAddress | WorkloadUid
"""What endpoints are found by when a member changes."""


class SliceIndex:
    """All slices. Changed by `add` and `remove` only."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._by_service: dict[ServiceKey, dict[str, EndpointSliceObject]] = {}
        self._marks: dict[Mark, str | tuple[str, ...]] = {}
        """Names (`<namespace>/<slice>`) of the slices that hold an address or a reference."""
        self._services: dict[str, ServiceKey] = {}
        self._loose: dict[str, Problem] = {}

    @property
    def problems(self) -> Iterator[Problem]:
        """Slices that belong to no service, by name."""
        return (self._loose[name] for name in sorted(self._loose))

    def of(self, key: ServiceKey) -> Sequence[EndpointSliceObject] | None:
        """The slices of a service, by name; None if it has none."""
        found = self._by_service.get(key)
        return None if found is None else [found[name] for name in sorted(found)]

    def has(self, source: SourceObject) -> bool:
        """Whether there is a slice of this name."""
        name = f"{source.namespace}/{source.name}"
        return name in self._services or name in self._loose

    def services_of(self, marks: Iterable[Mark]) -> Iterator[ServiceKey]:
        """Services with an endpoint of these addresses or references."""
        for mark in marks:
            for name in self._names(mark):
                yield self._services[name]

    def add(self, source: SourceObject, item: EndpointSliceObject, context: Context) -> None:
        """Take a slice in."""
        name = f"{source.namespace}/{source.name}"
        service = item.metadata.labels.get(SERVICE_LABEL)
        if not service:
            message = f"label {SERVICE_LABEL} is missing: no service uses it"
            context.report(source, Code.LOOSE_SLICE, message)
            [self._loose[name]] = context.take_problems()
            return
        key = ServiceKey(f"{source.namespace}/{service}")
        self._services[name] = key
        self._by_service.setdefault(key, {})[name] = item
        for mark in self._marks_of(source, item, context):
            known = self._names(mark)
            if name not in known:
                self._marks[mark] = (*known, name) if known else name

    def remove(self, source: SourceObject, item: EndpointSliceObject, context: Context) -> None:
        """Take a slice out."""
        name = f"{source.namespace}/{source.name}"
        self._loose.pop(name, None)
        key = self._services.pop(name, None)
        if key is None:
            return
        del self._by_service[key][name]
        if not self._by_service[key]:
            del self._by_service[key]
        for mark in self._marks_of(source, item, context):
            rest = tuple(other for other in self._names(mark) if other != name)
            if len(rest) > 1:
                self._marks[mark] = rest
            elif rest:
                self._marks[mark] = rest[0]
            else:
                self._marks.pop(mark, None)

    def service_key(self, source: SourceObject) -> ServiceKey | None:
        """The service that a known slice belongs to."""
        return self._services.get(f"{source.namespace}/{source.name}")

    def _names(self, mark: Mark) -> tuple[str, ...]:
        found = self._marks.get(mark)
        if found is None:
            return ()
        return found if isinstance(found, tuple) else (found,)

    def _marks_of(
        self, source: SourceObject, item: EndpointSliceObject, context: Context
    ) -> Iterator[Mark]:
        if not names_addresses(item):
            return
        for endpoint in item.endpoints:
            yield from map(context.shared.address, endpoint.addresses)
            uid = target_uid(endpoint, source.namespace)
            if uid is not None:
                member = self._members.member(uid)
                # The member's own text, where there is one: a key that costs no memory.
                yield member.workload.uid if member is not None else uid
