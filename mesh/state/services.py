"""Services with their endpoints: from EndpointSlices, or from the selector where there are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mesh.model.address import IPAddress, parse_ip
from mesh.model.codes import Code
from mesh.model.workload import Endpoint, Service, ServiceKey, ServicePort, WorkloadUid
from mesh.sources.objects import (
    EndpointSliceObject,
    ServiceObject,
    ServicePortSpec,
    SliceEndpoint,
    SourceObject,
)
from mesh.state.labels import waypoint_of
from mesh.state.workloads import Context, Member

SERVICE_LABEL = "kubernetes.io/service-name"
CLUSTER_DOMAIN = "svc.cluster.local"


def read_services(
    objects: Sequence[SourceObject], members: Sequence[Member], context: Context
) -> dict[ServiceKey, Service]:
    """Read all services."""
    slices: dict[ServiceKey, list[EndpointSliceObject]] = {}
    for item in objects:
        if isinstance(item.body, EndpointSliceObject):
            name = item.body.metadata.labels.get(SERVICE_LABEL)
            if name:
                slices.setdefault(ServiceKey(f"{item.namespace}/{name}"), []).append(item.body)
            else:
                message = f"label {SERVICE_LABEL} is missing: no service uses it"
                context.report(item, Code.LOOSE_SLICE, message)
    finder = _Finder(members)
    services: dict[ServiceKey, Service] = {}
    sources: dict[ServiceKey, SourceObject] = {}
    for item in objects:
        if isinstance(item.body, ServiceObject):
            key = ServiceKey(f"{item.namespace}/{item.name}")
            services[key] = _service(item, item.body, slices.pop(key, None), finder, context)
            sources[key] = item
    return _settle_vips(services, sources, context)


class _Finder:
    """Members by address, by uid and by namespace."""

    def __init__(self, members: Iterable[Member]) -> None:
        self.by_address: dict[IPAddress, WorkloadUid] = {}
        self.by_namespace: dict[str, list[Member]] = {}
        self.uids: set[WorkloadUid] = set()
        for member in members:
            workload = member.workload
            self.uids.add(workload.uid)
            self.by_namespace.setdefault(workload.namespace, []).append(member)
            if not workload.host_network:
                self.by_address |= dict.fromkeys(workload.addresses, workload.uid)

    def workload(
        self, endpoint: SliceEndpoint, address: IPAddress, namespace: str
    ) -> WorkloadUid | None:
        """Find the workload of an endpoint: by its reference, else by its address."""
        target = endpoint.target_ref
        if target is not None:
            kind = target.kind.lower()
            uid = WorkloadUid(f"{kind}/{target.namespace or namespace}/{target.name}")
            if uid in self.uids:
                return uid
        return self.by_address.get(address)


def _service(
    source: SourceObject,
    body: ServiceObject,
    slices: Sequence[EndpointSliceObject] | None,
    finder: _Finder,
    context: Context,
) -> Service:
    spec, meta = body.spec, body.metadata
    ports = [port for port in spec.ports if port.protocol == "TCP"]
    vips = dict.fromkeys((spec.cluster_ip, *spec.cluster_ips))
    if slices is not None:
        endpoints = _from_slices(slices, ports, finder, source.namespace)
    else:
        endpoints = _from_selector(spec.selector, ports, finder.by_namespace.get(source.namespace))
    return Service(
        key=ServiceKey(f"{source.namespace}/{source.name}"),
        name=source.name,
        namespace=source.namespace,
        hostname=f"{source.name}.{source.namespace}.{CLUSTER_DOMAIN}",
        addresses=tuple(dict.fromkeys(parse_ip(vip) for vip in vips if vip not in ("", "None"))),
        ports=tuple(
            ServicePort(port=port.port, name=port.name, app_protocol=port.app_protocol)
            for port in ports
        ),
        endpoints=endpoints,
        waypoint=waypoint_of(
            meta.labels, source.namespace, context.namespaces.get(source.namespace, {})
        ),
    )


def _from_slices(
    slices: Sequence[EndpointSliceObject],
    ports: Sequence[ServicePortSpec],
    finder: _Finder,
    namespace: str,
) -> tuple[Endpoint, ...]:
    found: dict[IPAddress, Endpoint] = {}
    for item in slices:
        if item.address_type not in ("IPv4", "IPv6"):
            continue  # FQDN slices name no address.
        targets = {port.name: port.port for port in item.ports if port.protocol == "TCP"}
        numbers = {port.port: targets[port.name] for port in ports if targets.get(port.name)}
        for endpoint in item.endpoints:
            for text in endpoint.addresses:
                address = parse_ip(text)
                known = found.get(address)
                found[address] = Endpoint(
                    address=address,
                    workload=finder.workload(endpoint, address, namespace),
                    ports={**known.ports, **numbers} if known else numbers,
                    ready=endpoint.conditions.ready,
                )
    return tuple(found.values())


def _from_selector(
    selector: Mapping[str, str],
    ports: Sequence[ServicePortSpec],
    members: Sequence[Member] | None,
) -> tuple[Endpoint, ...]:
    if not selector or not members:
        return ()
    return tuple(
        Endpoint(
            address=address,
            workload=member.workload.uid,
            ports=_target_ports(ports, member),
            ready=member.ready,
        )
        for member in members
        if selector.items() <= member.workload.labels.items()
        for address in member.workload.addresses
    )


def _target_ports(ports: Sequence[ServicePortSpec], member: Member) -> dict[int, int]:
    """Map service ports to the member's; a named port it does not have is left out."""
    found: dict[int, int] = {}
    for port in ports:
        target = port.target_port or port.port
        if isinstance(target, str):
            target = int(target) if target.isdecimal() else member.ports.get(target, 0)
        if 0 < target < 65536:
            found[port.port] = target
    return found


def _settle_vips(
    services: dict[ServiceKey, Service],
    sources: Mapping[ServiceKey, SourceObject],
    context: Context,
) -> dict[ServiceKey, Service]:
    """Give every virtual address to the first service that claims it."""
    holders: dict[IPAddress, ServiceKey] = {}
    settled: dict[ServiceKey, Service] = {}
    for key, service in services.items():
        for vip in service.addresses:
            holder = sources[holders.setdefault(vip, key)]
            if holder is not sources[key]:
                message = f"address {vip} belongs to {holder.subject} ({holder.where})"
                context.report(sources[key], Code.VIP_TAKEN, message)
        own = tuple(vip for vip in service.addresses if holders[vip] == key)
        settled[key] = service if own == service.addresses else replace(service, addresses=own)
    return settled
