"""All objects to one snapshot.

Pure and total: whatever is wrong with an object becomes a `Problem`, the rest goes on. What did
not change stays the same Python object, and a set of objects that changes nothing returns the
previous snapshot itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from mesh.model.address import parse_ip
from mesh.model.codes import Code
from mesh.model.snapshot import MeshSettings, MeshSnapshot, SameNode
from mesh.sources.objects import (
    MeshConfigObject,
    MeshConfigSpec,
    NamespaceObject,
    ObjectSet,
    ServiceAccountObject,
    SourceObject,
)
from mesh.sources.security_providers import read_providers
from mesh.state.policies import read_policies
from mesh.state.routes import read_routing
from mesh.state.services import read_services
from mesh.state.workloads import Context, read_members

Key = TypeVar("Key", bound=str)
Value = TypeVar("Value")


def reduce(objects: ObjectSet, previous: MeshSnapshot | None) -> MeshSnapshot:
    """Build the next snapshot; its revision grows by one if anything changed, problems included."""
    context = Context(trust_domain="", namespaces={}, accounts=frozenset())
    kept = _without_duplicates(objects.objects, context)
    settings = _settings(kept, context)
    context.trust_domain = settings.trust_domain
    context.namespaces = {
        item.name: item.body.metadata.labels
        for item in kept
        if isinstance(item.body, NamespaceObject)
    }
    context.accounts = frozenset(
        (item.namespace, item.name) for item in kept if isinstance(item.body, ServiceAccountObject)
    )
    members = read_members(kept, context, previous)
    services = read_services(kept, members, context)
    policies = read_policies(kept, settings, services, context)
    routing = read_routing(kept, context)
    old = previous or MeshSnapshot(revision=0)
    built = MeshSnapshot(
        revision=old.revision + 1,
        settings=old.settings if old.settings == settings else settings,
        workloads=_keep(old.workloads, {m.workload.uid: m.workload for m in members}),
        services=_keep(old.services, services),
        policies=_keep(old.policies, policies.authorization),
        peer_authentications=_keep(old.peer_authentications, policies.peer),
        request_authentications=_keep(old.request_authentications, policies.request),
        routes=_keep(old.routes, routing.routes),
        grants=_keep(old.grants, routing.grants),
        traffic_policies=_keep(old.traffic_policies, routing.traffic_policies),
        problems=(*objects.problems, *context.problems),
    )
    if previous is not None and replace(built, revision=previous.revision) == previous:
        return previous
    return built


def _keep(old: Mapping[Key, Value], new: dict[Key, Value]) -> Mapping[Key, Value]:
    """Take equal values, or the whole map, from the previous snapshot."""
    kept = {key: old[key] if old.get(key) == value else value for key, value in new.items()}
    same = len(kept) == len(old) and all(old.get(key) is value for key, value in kept.items())
    return old if same else kept


def _without_duplicates(objects: Iterable[SourceObject], context: Context) -> list[SourceObject]:
    """Keep the first object of a name."""
    first: dict[tuple[str, str, str], SourceObject] = {}
    for item in objects:
        known = first.setdefault((item.kind, item.namespace, item.name), item)
        if known is not item:
            message = f"duplicate: the object of {known.where} counts"
            context.report(item, Code.DUPLICATE, message)
    return list(first.values())


def _settings(objects: Iterable[SourceObject], context: Context) -> MeshSettings:
    chosen: SourceObject | None = None
    settings = MeshSettings()
    for item in objects:
        if not isinstance(item.body, MeshConfigObject):
            continue
        if chosen is not None:
            message = f"only one MeshConfig counts: that of {chosen.where}"
            context.report(item, Code.SECOND_CONFIG, message)
            continue
        chosen, settings = item, _from_config(item.body.spec)
    return settings


def _from_config(spec: MeshConfigSpec) -> MeshSettings:
    default = MeshSettings()
    return MeshSettings(
        trust_domain=spec.trust_domain or default.trust_domain,
        trust_domain_aliases=spec.trust_domain_aliases,
        root_namespace=spec.root_namespace or default.root_namespace,
        cluster=spec.cluster or default.cluster,
        same_node=SameNode(spec.same_node) if spec.same_node else default.same_node,
        probe_sources=tuple(map(parse_ip, spec.probe_sources)),
        providers=read_providers(spec.extension_providers, ("spec", "extensionProviders")),
    )
