"""A second, naive reading of L7 policy: every policy, every rule, every field, by definition.

It shares only the model with the code under test, and reads L4 fields by the reference of the
L4 engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mesh.model.address import IPAddress, IPNetwork
from mesh.model.policy import (
    AuthorizationPolicy,
    L4Match,
    PolicyAction,
    PolicyScope,
    Rule,
    StringMatch,
)
from mesh.model.snapshot import MeshSnapshot
from mesh.model.verdict import ConnectionFacts, Decision
from mesh.policy.l7.facts import RequestFacts
from tests.unit.mesh.policy import reference


def _template(text: str, path: str) -> bool:
    pattern = re.escape(text)
    pattern = pattern.replace(re.escape("{**}"), ".*").replace(re.escape("{*}"), "[^/]+")
    return re.fullmatch(pattern, path, re.DOTALL) is not None


def _fits(match: StringMatch, value: str) -> bool:
    match match.kind:
        case "exact":
            return value == match.value
        case "prefix":
            return value.startswith(match.value)
        case "suffix":
            return value.endswith(match.value)
        case "template":
            return _template(match.value, value)
    return value != ""


def _field(
    values: Sequence[StringMatch], not_values: Sequence[StringMatch], shown: Iterable[str]
) -> bool:
    shown = list(shown)
    hit = any(_fits(match, value) for match in values for value in shown)
    miss = any(_fits(match, value) for match in not_values for value in shown)
    return (hit or not values) and not miss


def _in(networks: Iterable[IPNetwork], address: IPAddress) -> bool:
    return any(net.version == address.version and address in net for net in networks)


def _hosts(authority: str) -> set[str]:
    whole = authority.lower()
    name = re.sub(r":[0-9]*$", "", whole)
    port = whole[len(name) :]
    return {whole, name.rstrip("."), name.rstrip(".") + port}


def _claim(facts: RequestFacts, way: Sequence[str]) -> list[str]:
    value: object = facts.claims.payload if facts.claims is not None else None
    for name in way:
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str) and list(way) in (["scope"], ["permission"]):
        return value.split()
    items = value if isinstance(value, list) else [value]
    found = []
    for item in items:
        if isinstance(item, bool):
            found.append(str(item).lower())
        elif isinstance(item, str | int):
            found.append(str(item))
    return found


def _request(match: L4Match, facts: RequestFacts) -> bool:
    wanted = match.request
    if wanted is None:
        return True
    claims = facts.claims.payload if facts.claims is not None else {}
    issuer, subject = claims.get("iss"), claims.get("sub")
    principals = [f"{issuer}/{subject}"] if issuer and subject else []
    audience = claims.get("aud", [])
    audiences = [audience] if isinstance(audience, str) else list(audience)  # type: ignore[arg-type]  # the tests' claims hold lists of strings
    presenter = claims.get("azp")
    remote = facts.remote_ip or facts.src.ip
    named = True
    if wanted.header is not None:
        name = wanted.header.name[0]
        shown = [facts.headers[name]] if name in facts.headers else []
        named = _field(wanted.header.values, wanted.header.not_values, shown)
    if wanted.claim is not None:
        shown = _claim(facts, wanted.claim.name)
        named = named and _field(wanted.claim.values, wanted.claim.not_values, shown)
    return named and all(
        (
            _field(wanted.methods, wanted.not_methods, [facts.method]),
            _field(wanted.paths, wanted.not_paths, [facts.path.split("?")[0]]),
            _field(wanted.hosts, wanted.not_hosts, _hosts(facts.host)),
            _field(wanted.request_principals, wanted.not_request_principals, principals),
            _field(wanted.audiences, wanted.not_audiences, [str(item) for item in audiences]),
            _field(wanted.presenters, wanted.not_presenters, [str(presenter)] if presenter else []),
            _field(wanted.snis, wanted.not_snis, [facts.sni] if facts.sni else []),
            not wanted.remote_ips or _in(wanted.remote_ips, remote),
            not _in(wanted.not_remote_ips, remote),
        )
    )


def rule_matches(snapshot: MeshSnapshot, rule: Rule, facts: RequestFacts) -> bool:
    """Say whether a whole rule matches."""
    connection = ConnectionFacts(principal=facts.principal, src=facts.src, dst=facts.dst)
    settings = snapshot.settings

    def holds(match: L4Match) -> bool:
        alone = Rule(conditions=(match,))
        return reference.rule_matches(settings, alone, connection) and _request(match, facts)

    clauses = [rule.sources, rule.operations, *[(item,) for item in rule.conditions]]
    return all(not clause or any(map(holds, clause)) for clause in clauses)


def applies(
    snapshot: MeshSnapshot, waypoint: str, item: AuthorizationPolicy, facts: RequestFacts
) -> bool:
    """Say whether a policy is enforced by a waypoint for the service that is called."""
    if item.scope is not PolicyScope.TARGET:
        return False
    for target in item.targets:
        path = f"{target.namespace}/{target.name}"
        if target.kind == "Service" and path == facts.service:
            return True
        if target.kind == "Gateway" and path == waypoint:
            return True
        root = item.namespace == snapshot.settings.root_namespace
        if target.kind == "GatewayClass" and target.name == "meshnode-waypoint" and root:
            return True
    return False


def decide(
    snapshot: MeshSnapshot, waypoint: str, facts: RequestFacts
) -> tuple[list[str], Decision]:
    """Judge a request: the providers to ask first, and what the rules say after them."""
    policies = [
        item
        for item in snapshot.policies.values()
        if applies(snapshot, waypoint, item, facts) and not item.dry_run
    ]
    hits = [
        (item, rule)
        for item in policies
        for rule in item.rules
        if rule_matches(snapshot, rule, facts)
    ]
    sure = [item for item, rule in hits if not rule.unsupported]
    unsure = [item for item, rule in hits if rule.unsupported]
    providers = sorted({item.provider for item in sure if item.action is PolicyAction.CUSTOM})
    return providers, _after(policies, sure, unsure)


def _after(
    policies: Sequence[AuthorizationPolicy],
    sure: Sequence[AuthorizationPolicy],
    unsure: Sequence[AuthorizationPolicy],
) -> Decision:
    if any(item.action is PolicyAction.DENY for item in sure):
        return Decision.DENY_RULE
    if any(item.action in (PolicyAction.DENY, PolicyAction.CUSTOM) for item in unsure):
        return Decision.UNSUPPORTED
    if not any(item.action is PolicyAction.ALLOW for item in policies):
        return Decision.NO_POLICY
    if any(item.action is PolicyAction.ALLOW for item in sure):
        return Decision.ALLOW_RULE
    if any(item.action is PolicyAction.ALLOW for item in unsure):
        return Decision.UNSUPPORTED
    return Decision.NO_ALLOW_MATCH
