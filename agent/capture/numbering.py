"""Stable numbers for workloads and service ports.

The kernel knows both only by number, and counters and open flows carry the number on; so a number
stays with its name for as long as the name exists and is never given to another one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.paths import NodePaths
from mesh.errors import ConfigError
from mesh.model.workload import ServiceKey, WorkloadUid


@dataclass(frozen=True, slots=True, order=True)
class ServicePortKey:
    """One port of a service in one address family (4 or 6); each has its own backends."""

    service: ServiceKey
    port: int
    family: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbering:
    """Immutable; `extended` returns the next one. Number 0 means "no workload"."""

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

    def workload_names(self) -> dict[int, WorkloadUid]:
        """Number to uid."""
        return {number: uid for uid, number in self.workloads.items()}

    def service_names(self) -> dict[int, ServicePortKey]:
        """Number to service port."""
        return {number: key for key, number in self.services.items()}


def numbering_file(paths: NodePaths) -> Path:
    """Where the node process keeps its numbering."""
    return paths.run_dir / "numbering.json"


def dump_numbering(numbering: Numbering) -> str:
    """As JSON, to be read by the next agent process and by `meshnode bpf`."""
    return json.dumps(
        {
            "next": numbering.next_number,
            "workloads": dict(numbering.workloads),
            "services": [[k.service, k.port, k.family, n] for k, n in numbering.services.items()],
        }
    )


def parse_numbering(text: str) -> Numbering:
    """The reverse of `dump_numbering`; raise `ConfigError` for anything else."""
    try:
        raw = json.loads(text)
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
