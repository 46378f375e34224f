"""A second, naive reading of the semantics, written without looking at speed.

It shares nothing with `mesh.policy` but the model, so that the property tests compare two
independent opinions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mesh.model.address import IPAddress, IPNetwork
from mesh.model.policy import (
    AuthorizationPolicy,
    L4Match,
    MtlsMode,
    PeerAuthentication,
    PolicyAction,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
    StringMatch,
)
from mesh.model.snapshot import MeshSettings, MeshSnapshot
from mesh.model.verdict import ConnectionFacts, Decision
from mesh.model.workload import Workload


def _string(match: StringMatch, value: str) -> bool:
    return {
        "exact": value == match.value,
        "prefix": value.startswith(match.value),
        "suffix": value.endswith(match.value),
        "present": value != "",
    }[match.kind]


def _strings(matches: Iterable[StringMatch], values: Iterable[str]) -> bool:
    values = list(values)
    return any(_string(match, value) for match in matches for value in values)


def _in(networks: Iterable[IPNetwork], address: IPAddress) -> bool:
    return any(address.version == net.version and address in net for net in networks)


def _match(settings: MeshSettings, match: L4Match, facts: ConnectionFacts) -> bool:
    peer = facts.principal
    domains: list[str] = []
    if peer is not None:
        own = [settings.trust_domain, *settings.trust_domain_aliases]
        domains = own if peer.trust_domain in own else [peer.trust_domain]
    account = f"/ns/{peer.namespace}/sa/{peer.service_account}" if peer else ""
    names = [domain + account for domain in domains]
    namespaces = [peer.namespace] if peer else []

    def accounts(wanted: Iterable[ServiceAccountMatch]) -> bool:
        return peer is not None and any(
            (item.namespace, item.name) == (peer.namespace, peer.service_account) for item in wanted
        )

    src, dst, port = facts.src.ip, facts.dst.ip, facts.dst.port
    return all(
        (
            not match.principals or _strings(match.principals, names),
            not _strings(match.not_principals, names),
            not match.namespaces or _strings(match.namespaces, namespaces),
            not _strings(match.not_namespaces, namespaces),
            not match.trust_domains or _strings(match.trust_domains, domains),
            not _strings(match.not_trust_domains, domains),
            not match.service_accounts or accounts(match.service_accounts),
            not accounts(match.not_service_accounts),
            not match.src_ips or _in(match.src_ips, src),
            not _in(match.not_src_ips, src),
            not match.dst_ips or _in(match.dst_ips, dst),
            not _in(match.not_dst_ips, dst),
            not match.dst_ports or port in match.dst_ports,
            port not in match.not_dst_ports,
        )
    )


def rule_matches(settings: MeshSettings, rule: Rule, facts: ConnectionFacts) -> bool:
    """Say whether the L4 part of a rule matches."""
    clauses = [rule.sources, rule.operations, *[(condition,) for condition in rule.conditions]]
    return all(
        not clause or any(_match(settings, match, facts) for match in clause) for clause in clauses
    )


def applies(
    settings: MeshSettings, item: AuthorizationPolicy | PeerAuthentication, dst: Workload
) -> bool:
    """Say whether an object is about a workload."""
    near = item.namespace in (dst.namespace, settings.root_namespace)
    match item.scope:
        case PolicyScope.MESH:
            return True
        case PolicyScope.NAMESPACE:
            return item.namespace == dst.namespace
        case PolicyScope.SELECTOR:
            return near and set(item.selector.items()) <= set(dst.labels.items())
        case PolicyScope.TARGET:
            return False


def strict(snapshot: MeshSnapshot, dst: Workload, port: int) -> bool:
    """Say whether plaintext to a port is refused."""
    mode = MtlsMode.PERMISSIVE
    for scope in (PolicyScope.MESH, PolicyScope.NAMESPACE, PolicyScope.SELECTOR):
        items = [
            item
            for item in snapshot.peer_authentications.values()
            if item.scope is scope and applies(snapshot.settings, item, dst)
        ]
        if not items:
            continue
        first = sorted(items, key=lambda item: (item.created, item.key))[0]
        for candidate in (first.mode, first.port_modes.get(port, MtlsMode.UNSET)):
            if candidate is not MtlsMode.UNSET:
                mode = candidate
    return mode is MtlsMode.STRICT


def decide(snapshot: MeshSnapshot, dst: Workload, facts: ConnectionFacts) -> Decision:
    """Judge a connection."""
    settings = snapshot.settings
    if facts.principal is None and strict(snapshot, dst, facts.dst.port):
        return Decision.STRICT_MTLS
    if dst.waypoint is not None:
        pods = [
            pod.identity
            for pod in snapshot.workloads.values()
            if f"{pod.namespace}/{pod.labels.get('gateway.networking.k8s.io/gateway-name')}"
            == dst.waypoint
        ]
        if facts.principal not in pods:
            return Decision.WAYPOINT_REQUIRED
    policies = [
        item
        for item in snapshot.policies.values()
        if not item.dry_run and applies(settings, item, dst)
    ]
    return _rules(settings, policies, facts)


def _rules(
    settings: MeshSettings, policies: Sequence[AuthorizationPolicy], facts: ConnectionFacts
) -> Decision:
    hits = [
        (item.action, bool(rule.l7_fields))
        for item in policies
        for rule in item.rules
        if rule_matches(settings, rule, facts)
    ]
    if (PolicyAction.DENY, False) in hits:
        return Decision.DENY_RULE
    if (PolicyAction.DENY, True) in hits or any(a is PolicyAction.CUSTOM for a, _ in hits):
        return Decision.NEEDS_L7
    if not any(item.action is PolicyAction.ALLOW for item in policies):
        return Decision.NO_POLICY
    if (PolicyAction.ALLOW, False) in hits:
        return Decision.ALLOW_RULE
    return Decision.NEEDS_L7 if (PolicyAction.ALLOW, True) in hits else Decision.NO_ALLOW_MATCH
