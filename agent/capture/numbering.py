"""Stable numbers for workloads and service ports.

The kernel knows both only by number, and counters and open flows carry the number on; so a number
stays with its name for as long as the name exists and is never given to another one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from agent.paths import NodePaths
from mesh.errors import ConfigError
from mesh.model.workload import ServiceKey, WorkloadUid


@dataclass(frozen=True, slots=True, order=True)
class ServicePortKey:
    """One port of a service in one address family (4 or 6); each has its own backends."""

    service: ServiceKey
    port: int
    family: int


Key = TypeVar("Key", WorkloadUid, ServicePortKey)


@dataclass(frozen=True, slots=True)
class Membership(Generic[Key]):
    """Names that are `gone`, and names that are `there`, whether they are new or not."""

    gone: Collection[Key] = ()
    there: Collection[Key] = ()


@dataclass(frozen=True, kw_only=True)
class Numbering:
    """Immutable; `extended` and `changed` return the next one. Number 0 means "no workload"."""

    workloads: Mapping[WorkloadUid, int] = field(default_factory=dict)
    services: Mapping[ServicePortKey, int] = field(default_factory=dict)
    next_number: int = 1

    def extended(
        self, workloads: Iterable[WorkloadUid], services: Iterable[ServicePortKey]
    ) -> Numbering:
        """Keep the numbers of what is named, number what is new, forget the rest."""
        number = self.next_number
        new_workloads: dict[WorkloadUid, int] = {}
        for uid in sorted(set(workloads)):
            known = self.workloads.get(uid)
            new_workloads[uid] = known or number
            number += known is None
        new_services: dict[ServicePortKey, int] = {}
        for key in sorted(set(services)):
            known = self.services.get(key)
            new_services[key] = known or number
            number += known is None
        return Numbering(workloads=new_workloads, services=new_services, next_number=number)

    def changed(
        self, workloads: Membership[WorkloadUid], services: Membership[ServicePortKey]
    ) -> Numbering:
        """Forget what is gone and number what is new; itself if that is nothing."""
        by_uid, number = _renumbered(self.workloads, workloads, self.next_number)
        by_port, number = _renumbered(self.services, services, number)
        if by_uid is self.workloads and by_port is self.services:
            return self
        made = Numbering(workloads=by_uid, services=by_port, next_number=number)
        if "_workload_names" in vars(self):
            names = dict(self._workload_names)
            for uid in workloads.gone:
                names.pop(self.workloads.get(uid, 0), None)
            names.update((by_uid[uid], uid) for uid in workloads.there)
            vars(made)["_workload_names"] = names
        return made

    def workload_names(self) -> Mapping[int, WorkloadUid]:
        """Number to uid."""
        return self._workload_names

    @cached_property
    def _workload_names(self) -> dict[int, WorkloadUid]:
        return {number: uid for uid, number in self.workloads.items()}

    def service_names(self) -> Mapping[int, ServicePortKey]:
        """Number to service port."""
        return self._service_names

    @cached_property
    def _service_names(self) -> Mapping[int, ServicePortKey]:
        return {number: key for key, number in self.services.items()}


def _renumbered(
    known: Mapping[Key, int], change: Membership[Key], number: int
) -> tuple[Mapping[Key, int], int]:
    new = sorted(key for key in change.there if key not in known)
    lost = [key for key in change.gone if key in known]
    if not new and not lost:
        return known, number
    made = dict(known)
    for key in lost:
        del made[key]
    made.update(zip(new, range(number, number + len(new)), strict=True))
    return made, number + len(new)


def numbering_file(paths: NodePaths) -> Path:
    """Where the node process keeps its numbering."""
    return paths.run_dir / "numbering.json"


def dump_numbering(numbering: Numbering) -> bytes:
    """As JSON, to be read by the next agent process and by `meshnode bpf`."""
    return msgspec.json.encode(
        {
            "next": numbering.next_number,
            "workloads": numbering.workloads,
            "services": [[k.service, k.port, k.family, n] for k, n in numbering.services.items()],
        }
    )


def parse_numbering(text: str | bytes) -> Numbering:
    """The reverse of `dump_numbering`; raise `ConfigError` for anything else."""
    try:
        raw = msgspec.json.decode(text)
        workloads = {WorkloadUid(str(uid)): int(number) for uid, number in raw["workloads"].items()}
        services = {
            ServicePortKey(ServiceKey(str(service)), int(port), int(family)): int(number)
            for service, port, family, number in raw["services"]
        }
        used = [0, *workloads.values(), *services.values()]
        number = max(int(raw["next"]), max(used) + 1)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"the saved workload numbers cannot be read: {error}") from error
    return Numbering(workloads=workloads, services=services, next_number=number)
