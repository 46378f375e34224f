"""Pods and Workload objects to workloads.

An address belongs to one workload: identity on the way in is looked up by it. Where two claim
the same one, whoever held it keeps it, and the other goes without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from mesh.errors import IdentityError
from mesh.model.address import IPAddress, parse_ip
from mesh.model.codes import Code
from mesh.model.snapshot import MeshSnapshot, Problem, Severity
from mesh.model.workload import Workload, WorkloadUid
from mesh.sources.objects import Metadata, PodObject, SourceObject, WorkloadObject
from mesh.state.labels import (
    NETNS_ANNOTATION,
    app_names,
    exclusions_of,
    is_enrolled,
    is_waypoint,
    waypoint_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A workload with what only endpoints need to know of it."""

    workload: Workload
    source: SourceObject
    ports: Mapping[str, int]
    ready: bool = True


@dataclass(slots=True, kw_only=True)
class Context:
    """What every object is read against, and the place for what is wrong."""

    trust_domain: str
    namespaces: Mapping[str, Mapping[str, str]]
    accounts: frozenset[tuple[str, str]]
    problems: list[Problem] = field(default_factory=list)

    def report(
        self, source: SourceObject, code: Code, message: str, severity: Severity = Severity.ERROR
    ) -> None:
        """Add a problem of an object."""
        self.problems.append(
            Problem(
                where=source.where,
                subject=source.subject,
                message=message,
                severity=severity,
                code=code,
            )
        )


def read_members(
    objects: Iterable[SourceObject], context: Context, previous: MeshSnapshot | None
) -> list[Member]:
    """Read all pods and workloads, without those that cannot be in the mesh."""
    members: list[Member] = []
    for item in objects:
        if isinstance(item.body, PodObject):
            member = _pod(item, item.body, context)
        elif isinstance(item.body, WorkloadObject):
            member = _standalone(item, item.body, context)
        else:
            continue
        if member is not None and _has_identity(member, context):
            members.append(member)
    return _settle_addresses(members, context, previous)


def _pod(source: SourceObject, pod: PodObject, context: Context) -> Member | None:
    if pod.status.phase in ("Succeeded", "Failed"):
        return None  # Its address may belong to another pod by now.
    texts = dict.fromkeys((pod.status.pod_ip, *(item.ip for item in pod.status.pod_ips)))
    addresses = tuple(dict.fromkeys(parse_ip(text) for text in texts if text))
    if not addresses:
        message = "the pod has no status.podIP: it joins the mesh when it has one"
        context.report(source, Code.NO_ADDRESS, message, Severity.WARNING)
        return None
    workload = _workload(
        source, pod.metadata, addresses, context, host_network=pod.spec.host_network
    )
    ready = all(c.status == "True" for c in pod.status.conditions if c.type == "Ready")
    return Member(
        workload=replace(
            workload,
            node=pod.spec.node_name,
            service_account=pod.spec.service_account_name or "default",
            ready=ready or not is_waypoint(pod.metadata.labels),
        ),
        source=source,
        ports={
            port.name: port.container_port
            for container in pod.spec.containers
            for port in container.ports
            if port.name
        },
        ready=ready,
    )


def _standalone(source: SourceObject, item: WorkloadObject, context: Context) -> Member:
    addresses = tuple(dict.fromkeys(map(parse_ip, item.spec.addresses)))
    workload = _workload(source, item.metadata, addresses, context, host_network=False)
    return Member(
        workload=replace(
            workload,
            node=item.spec.node,
            service_account=item.spec.service_account,
            netns=item.spec.netns or workload.netns,
        ),
        source=source,
        ports={port.name: port.port for port in item.spec.ports},
    )


def _workload(
    source: SourceObject,
    meta: Metadata,
    addresses: tuple[IPAddress, ...],
    context: Context,
    *,
    host_network: bool,
) -> Workload:
    """Fill what labels and annotations say; node and account follow."""
    messages: list[str] = []
    namespace = context.namespaces.get(meta.namespace, {})
    waypoint = is_waypoint(meta.labels)
    enrolled = is_enrolled(meta.labels, namespace, messages)
    names = app_names(meta)
    exclusions = exclusions_of(meta.annotations, messages)
    for message in messages:
        context.report(source, Code.BAD_LABEL, message)
    return Workload(
        uid=WorkloadUid(f"{source.kind.lower()}/{meta.namespace}/{meta.name}"),
        name=meta.name,
        namespace=meta.namespace,
        service_account="default",
        trust_domain=context.trust_domain,
        node="",
        addresses=addresses,
        enrolled=enrolled and not host_network and not waypoint,
        host_network=host_network,
        netns=meta.annotations.get(NETNS_ANNOTATION),
        labels=meta.labels,
        app_name=names.app,
        canonical_service=names.service,
        canonical_revision=names.revision,
        exclusions=exclusions,
        waypoint=None if waypoint else waypoint_of(meta.labels, meta.namespace, namespace),
    )


def _has_identity(member: Member, context: Context) -> bool:
    workload = member.workload
    try:
        account = workload.identity
    except IdentityError as error:
        context.report(member.source, Code.NO_IDENTITY, f"{error}: the workload is left out")
        return False
    name = (account.namespace, account.service_account)
    if account.service_account != "default" and name not in context.accounts:
        message = f"service account {account.service_account!r} is not defined in its namespace"
        context.report(member.source, Code.NO_ACCOUNT, message, Severity.WARNING)
    return True


def _settle_addresses(
    members: list[Member], context: Context, previous: MeshSnapshot | None
) -> list[Member]:
    """Give every address to one member; leave out members that are left without."""
    holders = _holders(members, previous)
    settled: list[Member] = []
    for member in members:
        workload = member.workload
        if workload.host_network:
            settled.append(member)
            continue
        own = tuple(a for a in workload.addresses if holders[a].workload.uid == workload.uid)
        for address in workload.addresses:
            if address not in own:
                other = holders[address].source
                message = f"address {address} belongs to {other.subject} ({other.where})"
                context.report(member.source, Code.ADDRESS_TAKEN, message)
        if own == workload.addresses:
            settled.append(member)
        elif own:
            settled.append(replace(member, workload=replace(workload, addresses=own)))
    return settled


def _holders(members: list[Member], previous: MeshSnapshot | None) -> dict[IPAddress, Member]:
    before = previous.by_address if previous else {}
    holders: dict[IPAddress, Member] = {}
    for member in members:
        if member.workload.host_network:
            continue
        for address in member.workload.addresses:
            held = before.get(address)
            if address not in holders or (held and held.uid == member.workload.uid):
                holders[address] = member
    return holders
