"""One pod or Workload object to a workload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.model.address import IPAddress
from mesh.model.codes import Code
from mesh.model.snapshot import Severity
from mesh.model.workload import WaypointFor, Workload, WorkloadUid
from mesh.sources.objects import Metadata, PodObject, SourceObject, WorkloadObject
from mesh.state.context import Context
from mesh.state.labels import (
    NETNS_ANNOTATION,
    app_names,
    egress_of,
    exclusions_of,
    is_enrolled,
    is_waypoint,
)
from mesh.state.waypoints import waypoint_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A workload with what only endpoints need to know of it."""

    workload: Workload
    source: SourceObject
    ready: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What pods and Workload objects say in different ways."""

    node: str
    account: str
    host_network: bool = False
    netns: str = ""
    ready: bool = True


def workload_uid(source: SourceObject) -> WorkloadUid:
    """The uid of the workload that an object makes."""
    return WorkloadUid(f"{source.kind.lower()}/{source.namespace}/{source.name}")


def read_member(source: SourceObject, uid: WorkloadUid, context: Context) -> Member | None:
    """Read a pod or Workload; None if it cannot be in the mesh. Reports to the context."""
    body = source.body
    if isinstance(body, PodObject):
        return _pod(source, body, uid, context)
    if isinstance(body, WorkloadObject):
        return _standalone(source, body, uid, context)
    raise TypeError(f"{source.subject} makes no workload")


def named_ports(source: SourceObject) -> Mapping[str, int]:
    """The ports that a Service may name."""
    body = source.body
    if isinstance(body, PodObject):
        return {
            port.name: port.container_port
            for container in body.spec.containers
            for port in container.ports
            if port.name
        }
    if isinstance(body, WorkloadObject):
        return {port.name: port.port for port in body.spec.ports}
    return {}


def _pod(source: SourceObject, pod: PodObject, uid: WorkloadUid, context: Context) -> Member | None:
    if pod.status.phase in ("Succeeded", "Failed"):
        return None  # Its address may belong to another pod by now.
    texts = dict.fromkeys((pod.status.pod_ip, *(item.ip for item in pod.status.pod_ips)))
    addresses = tuple(dict.fromkeys(context.shared.address(text) for text in texts if text))
    if not addresses:
        message = "the pod has no status.podIP: it joins the mesh when it has one"
        context.report(source, Code.NO_ADDRESS, message, Severity.WARNING)
        return None
    ready = all(c.status == "True" for c in pod.status.conditions if c.type == "Ready")
    place = _Place(
        node=pod.spec.node_name,
        account=pod.spec.service_account_name or "default",
        host_network=pod.spec.host_network,
        ready=ready or not is_waypoint(pod.metadata.labels),
    )
    workload = _workload(source, pod.metadata, uid, addresses, place, context)
    if not _has_identity(source, workload, context):
        return None
    return Member(workload=workload, source=source, ready=ready)


def _standalone(
    source: SourceObject, item: WorkloadObject, uid: WorkloadUid, context: Context
) -> Member | None:
    addresses = tuple(dict.fromkeys(map(context.shared.address, item.spec.addresses)))
    place = _Place(node=item.spec.node, account=item.spec.service_account, netns=item.spec.netns)
    workload = _workload(source, item.metadata, uid, addresses, place, context)
    if not _has_identity(source, workload, context):
        return None
    return Member(workload=workload, source=source)


def _workload(
    source: SourceObject,
    meta: Metadata,
    uid: WorkloadUid,
    addresses: tuple[IPAddress, ...],
    place: _Place,
    context: Context,
) -> Workload:
    messages: list[str] = []
    namespace, share = context.namespaces.get(meta.namespace, {}), context.shared.text
    is_proxy = is_waypoint(meta.labels)
    enrolled = is_enrolled(meta.labels, namespace, messages)
    names = app_names(meta)
    exclusions = exclusions_of(meta.annotations, messages)
    egress = egress_of(meta.annotations, messages)
    waypoint = None if is_proxy else waypoint_for(WaypointFor.WORKLOAD, source, meta, context)
    for message in messages:
        context.report(source, Code.BAD_LABEL, message)
    return Workload(
        uid=uid,
        name=meta.name,
        namespace=meta.namespace,
        service_account=place.account,
        trust_domain=context.trust_domain,
        node=place.node,
        addresses=addresses,
        enrolled=enrolled and not place.host_network and not is_proxy,
        host_network=place.host_network,
        netns=place.netns or meta.annotations.get(NETNS_ANNOTATION),
        labels=meta.labels,
        app_name=share(names.app),
        canonical_service=share(names.service),
        canonical_revision=share(names.revision),
        exclusions=exclusions,
        egress_bytes_per_s=egress,
        waypoint=waypoint and share(waypoint),
        ready=place.ready,
    )


def _has_identity(source: SourceObject, workload: Workload, context: Context) -> bool:
    name = (workload.namespace, workload.service_account)
    error = context.shared.identity_error(workload.trust_domain, *name)
    if error:
        context.report(source, Code.NO_IDENTITY, f"{error}: the workload is left out")
        return False
    if workload.service_account != "default" and name not in context.accounts:
        message = f"service account {workload.service_account!r} is not defined in its namespace"
        context.report(source, Code.NO_ACCOUNT, message, Severity.WARNING)
    return True
