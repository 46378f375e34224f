"""From services and workloads of a snapshot to groups of targets.

Targets keep their load and connections over snapshots as long as address and identity stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakValueDictionary

from mesh.model.address import SocketAddress
from mesh.model.connection import Party
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import Service, ServiceKey, Workload
from mesh.telemetry.party import party
from waypoint.contract import Origin
from waypoint.upstream.locality import weight_of, zone_of
from waypoint.upstream.target import Group, Speaks, Target, TargetKey

HBONE_PORT = 15008
MAX_ADDRESSES = 10_000
"""Workloads' ports that are remembered: which ones is the callers' choice."""
_HTTP2_PROTOCOLS = frozenset(("kubernetes.io/h2c", "grpc", "http2", "h2c"))


def speaks(app_protocol: str) -> Speaks:
    """HTTP version that a service port's appProtocol asks for (KEP-3726)."""
    return Speaks.HTTP2 if app_protocol.lower() in _HTTP2_PROTOCOLS else Speaks.HTTP1


def app_protocol(service: Service, port: int) -> str:
    """A port's appProtocol in lower case, empty if it has none."""
    return next((p.app_protocol.lower() for p in service.ports if p.port == port), "")


def service_protocol(origin: Origin) -> str:
    """The appProtocol of the service port that was dialled."""
    return app_protocol(origin.service, origin.dialled.port) if origin.service else ""


class Endpoints:
    """The groups of one snapshot, made on first use."""

    def __init__(self, snapshot: MeshSnapshot, previous: Endpoints | None = None) -> None:
        self.snapshot = snapshot
        self._groups: dict[tuple[ServiceKey, int, int], Group] = {}
        self._single: dict[SocketAddress, Group] = {}
        self._protocols: dict[str, dict[SocketAddress, str]] = {}
        """Of workloads' ports, by namespace."""
        self._targets: WeakValueDictionary[TargetKey, Target] = (
            previous._targets if previous else WeakValueDictionary()
        )

    def service(self, key: ServiceKey, port: int, family: int) -> Group | None:
        """Ready endpoints of a service port, in the IP version that was dialled where there are
        any; None if there is no such port."""
        group = self._groups.get((key, port, family))
        if group is not None:
            return group
        service = self.snapshot.services.get(key)
        if service is None or port not in {p.port for p in service.ports}:
            return None
        found = tuple(self._of_service(service, port))
        targets = tuple(t for t in found if t.key.address.ip.version == family) or found
        version = speaks(app_protocol(service, port))
        group = Group(name=f"{key}:{port}", targets=targets, speaks=version)
        self._groups[(key, port, family)] = group
        return group

    def workload(self, workload: Workload, address: SocketAddress) -> Group:
        """The one target that an address of a workload is."""
        group = self._single.get(address)
        if group is None:
            if len(self._single) >= MAX_ADDRESSES:
                self._single.clear()
            target = self._target(address, workload)
            named = self.workload_protocol(workload, address)
            version = speaks(named) if named else Speaks.AS_CLIENT
            group = Group(name=str(address), targets=(target,), speaks=version)
            self._single[address] = group
        return group

    def workload_protocol(self, workload: Workload, address: SocketAddress) -> str:
        """The appProtocol of a workload's port: what a service says of it; empty if none does."""
        known = self._protocols.get(workload.namespace)
        if known is None:
            services = self.snapshot.services.values()
            known = self._protocols[workload.namespace] = {
                SocketAddress(endpoint.address, endpoint.ports[port.port]): name
                for service in services
                if service.namespace == workload.namespace
                for port in service.ports
                if (name := port.app_protocol.lower())
                for endpoint in service.endpoints
                if port.port in endpoint.ports
            }
        return known.get(address, "")

    def targets(self) -> list[Target]:
        """Every target in use, for people."""
        return list(self._targets.values())

    def _of_service(self, service: Service, port: int) -> Iterator[Target]:
        for endpoint in service.endpoints:
            if endpoint.ready and port in endpoint.ports:
                uid = endpoint.workload
                workload = self.snapshot.workloads.get(uid) if uid else None
                yield self._target(SocketAddress(endpoint.address, endpoint.ports[port]), workload)

    def _target(self, address: SocketAddress, workload: Workload | None) -> Target:
        in_mesh = workload is not None and workload.enrolled
        key = TargetKey(
            address=address,
            tunnel=SocketAddress(address.ip, HBONE_PORT) if in_mesh else None,
            expected=frozenset((workload.identity,)) if workload and in_mesh else frozenset(),
        )
        dst = party(workload, workload.identity if workload else None) if workload else Party()
        target = self._targets.get(key)
        if target is None:
            target = self._targets[key] = Target(key, dst)
        target.dst = dst
        if workload is not None:
            target.node, target.zone = workload.node, zone_of(workload)
            target.weight = weight_of(workload.labels)
        return target
