"""Snapshots with just what a test is about."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.model.address import parse_ip
from mesh.model.snapshot import MeshSettings, MeshSnapshot
from mesh.model.workload import (
    Endpoint,
    Service,
    ServiceKey,
    ServicePort,
    Workload,
    WorkloadUid,
)


def workload(
    name: str,
    *addresses: str,
    node: str = "node-a",
    enrolled: bool = True,
    waypoint: str | None = None,
) -> Workload:
    """A pod of namespace `default` whose service account has its own name."""
    return Workload(
        uid=WorkloadUid(f"pod/default/{name}"),
        name=name,
        namespace="default",
        service_account=name,
        trust_domain="cluster.local",
        node=node,
        addresses=tuple(map(parse_ip, addresses)),
        enrolled=enrolled,
        waypoint=waypoint,
    )


def service(name: str, vip: str, port: int, endpoints: Sequence[Endpoint]) -> Service:
    """A service of namespace `default` with one port."""
    return Service(
        key=ServiceKey(f"default/{name}"),
        name=name,
        namespace="default",
        hostname=f"{name}.default.svc.cluster.local",
        addresses=(parse_ip(vip),),
        ports=(ServicePort(port=port),),
        endpoints=tuple(endpoints),
    )


def endpoint(of: Workload, port: int, target: int, *, ready: bool = True) -> Endpoint:
    return Endpoint(address=of.addresses[0], workload=of.uid, ports={port: target}, ready=ready)


def snapshot(
    *workloads: Workload, services: Sequence[Service] = (), settings: MeshSettings | None = None
) -> MeshSnapshot:
    return MeshSnapshot(
        revision=1,
        settings=settings or MeshSettings(),
        workloads={w.uid: w for w in workloads},
        services={s.key: s for s in services},
    )
