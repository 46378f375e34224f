"""One Service with its endpoints: from EndpointSlices, or from the selector without any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mesh.model.address import IPAddress
from mesh.model.workload import (
    Endpoint,
    Service,
    ServiceKey,
    ServicePort,
    WaypointFor,
    WorkloadUid,
)
from mesh.sources.objects import (
    EndpointSliceObject,
    ServiceObject,
    ServicePortSpec,
    SliceEndpoint,
    SourceObject,
)
from mesh.state.context import Context, Shared
from mesh.state.members import Members
from mesh.state.waypoints import waypoint_for
from mesh.state.workloads import Member, named_ports

CLUSTER_DOMAIN = "svc.cluster.local"


def read_service(
    source: SourceObject,
    body: ServiceObject,
    slices: Sequence[EndpointSliceObject] | None,
    members: Members,
    context: Context,
) -> Service:
    """Read a service; `slices` None where it has none."""
    spec, meta, shared = body.spec, body.metadata, context.shared
    ports = [port for port in spec.ports if port.protocol == "TCP"]
    vips = dict.fromkeys((spec.cluster_ip, *spec.cluster_ips))
    namespace = source.namespace
    if slices is not None:
        endpoints = _from_slices(slices, ports, members, namespace, shared)
    else:
        endpoints = _from_selector(spec.selector, ports, members, namespace)
    return Service(
        key=ServiceKey(f"{namespace}/{source.name}"),
        name=source.name,
        namespace=namespace,
        hostname=f"{source.name}.{namespace}.{CLUSTER_DOMAIN}",
        addresses=tuple(dict.fromkeys(shared.address(v) for v in vips if v not in ("", "None"))),
        ports=tuple(
            ServicePort(port=port.port, name=port.name, app_protocol=port.app_protocol)
            for port in ports
        ),
        endpoints=endpoints,
        waypoint=waypoint_for(WaypointFor.SERVICE, source, meta, context),
    )


def target_uid(endpoint: SliceEndpoint, namespace: str) -> WorkloadUid | None:
    """The uid of the workload that an endpoint refers to, whether it exists or not."""
    target = endpoint.target_ref
    if target is None:
        return None
    return WorkloadUid(f"{target.kind.lower()}/{target.namespace or namespace}/{target.name}")


def names_addresses(item: EndpointSliceObject) -> bool:
    """Whether a slice holds addresses; FQDN slices do not."""
    return item.address_type in ("IPv4", "IPv6")


def _from_slices(
    slices: Sequence[EndpointSliceObject],
    ports: Sequence[ServicePortSpec],
    members: Members,
    namespace: str,
    shared: Shared,
) -> tuple[Endpoint, ...]:
    found: dict[IPAddress, Endpoint] = {}
    for item in filter(names_addresses, slices):
        targets = {port.name: port.port for port in item.ports if port.protocol == "TCP"}
        numbers = {port.port: targets[port.name] for port in ports if targets.get(port.name)}
        for endpoint in item.endpoints:
            for text in endpoint.addresses:
                address = shared.address(text)
                known = found.get(address)
                found[address] = Endpoint(
                    address=address,
                    workload=_find(endpoint, address, namespace, members),
                    ports={**known.ports, **numbers} if known else numbers,
                    ready=endpoint.conditions.ready,
                )
    return tuple(found.values())


def _find(
    endpoint: SliceEndpoint, address: IPAddress, namespace: str, members: Members
) -> WorkloadUid | None:
    """Find the workload of an endpoint: by its reference, else by its address."""
    uid = target_uid(endpoint, namespace)
    member = members.member(uid) if uid is not None else None
    if member is not None:
        return member.workload.uid
    workload = members.by_address.get(address)
    return workload.uid if workload is not None else None


def _from_selector(
    selector: Mapping[str, str], ports: Sequence[ServicePortSpec], members: Members, namespace: str
) -> tuple[Endpoint, ...]:
    if not selector:
        return ()
    chosen = [m for m in members.of_namespace(namespace) if selects(selector, m)]
    return tuple(
        Endpoint(
            address=address,
            workload=member.workload.uid,
            ports=_target_ports(ports, member),
            ready=member.ready,
        )
        for member in sorted(chosen, key=lambda m: m.workload.uid)
        for address in member.workload.addresses
    )


def selects(selector: Mapping[str, str], member: Member) -> bool:
    """Whether a Service's selector takes a member."""
    return selector.items() <= member.workload.labels.items()


def _target_ports(ports: Sequence[ServicePortSpec], member: Member) -> dict[int, int]:
    """Map service ports to the member's; a named port it does not have is left out."""
    found: dict[int, int] = {}
    for port in ports:
        target = port.target_port or port.port
        if isinstance(target, str):
            named = named_ports(member.source).get(target, 0)
            target = int(target) if target.isdecimal() else named
        if 0 < target < 65536:
            found[port.port] = target
    return found
