"""The engine's semantics, one sentence per test."""

from __future__ import annotations

import pytest

from mesh.model.policy import (
    AuthorizationPolicy,
    L4Match,
    MtlsMode,
    PeerAuthentication,
    PolicyAction,
    ServiceAccountMatch,
)
from mesh.model.verdict import ConnectionFacts, Decision, Verdict
from mesh.model.workload import Workload
from mesh.policy.engine import PolicyIndex
from mesh.policy.explain import Outcome, explain
from tests.unit.mesh.policy import build

ALLOW, DENY = PolicyAction.ALLOW, PolicyAction.DENY
FROM_WEB = L4Match(namespaces=build.texts("web"))
API = build.workload("api", labels={"app": "api"})


def judge(
    *objects: AuthorizationPolicy | PeerAuthentication,
    facts: ConnectionFacts | None = None,
    dst: Workload = API,
    others: tuple[Workload, ...] = (),
) -> Verdict:
    """Judge one connection."""
    snapshot = build.snapshot(
        dst,
        *others,
        policies=[item for item in objects if isinstance(item, AuthorizationPolicy)],
        authentications=[item for item in objects if isinstance(item, PeerAuthentication)],
    )
    return PolicyIndex.compile(snapshot).evaluate(dst, facts or build.facts())


def test_without_policy_everything_is_allowed() -> None:
    assert judge() == Verdict(allowed=True, decision=Decision.NO_POLICY)


def test_deny_comes_before_allow_and_names_policy_and_rule() -> None:
    allow = build.policy("a", ALLOW, build.rule())
    never = build.rule(L4Match(namespaces=build.texts("nobody")))
    deny = build.policy("d", DENY, never, build.rule(FROM_WEB))
    verdict = judge(allow, deny)
    assert str(verdict) == "denied by AuthorizationPolicy shop/d rule[1] (deny_rule)"


def test_allow_without_rules_allows_nothing() -> None:
    verdict = judge(build.policy("nothing", ALLOW))
    assert str(verdict) == "denied by AuthorizationPolicy shop/nothing (no_allow_match)"


def test_an_empty_rule_matches_everything() -> None:
    assert judge(build.policy("all", ALLOW, build.rule())).allowed
    assert not judge(build.policy("all", DENY, build.rule()), facts=build.facts(None)).allowed


@pytest.mark.parametrize(
    ("form", "matches"),
    [
        ("td/ns/web/sa/front", True),
        ("old/ns/web/sa/front", True),
        ("far/ns/web/sa/front", False),
        ("td/ns/web/*", True),
        ("*/sa/front", True),
        ("*/sa/back", False),
        ("*", True),
    ],
)
def test_string_forms_and_trust_domain_aliases(form: str, matches: bool) -> None:
    rule = build.rule(L4Match(principals=build.texts(form)))
    assert judge(build.policy("p", ALLOW, rule)).allowed is matches
    negative = build.rule(L4Match(not_principals=build.texts(form)))
    assert judge(build.policy("p", ALLOW, negative)).allowed is not matches


@pytest.mark.parametrize(
    "match",
    [
        L4Match(principals=build.texts("*")),
        L4Match(namespaces=build.texts("*")),
        L4Match(trust_domains=build.texts("*")),
        L4Match(service_accounts=(ServiceAccountMatch(namespace="web", name="front"),)),
    ],
)
def test_positive_identity_fields_fail_without_identity(match: L4Match) -> None:
    policy = build.policy("p", ALLOW, build.rule(match))
    assert judge(policy).allowed
    assert not judge(policy, facts=build.facts(None)).allowed


def test_negative_identity_fields_pass_without_identity() -> None:
    deny = build.policy("p", DENY, build.rule(L4Match(not_namespaces=build.texts("web"))))
    assert judge(deny).allowed
    assert not judge(deny, facts=build.facts(None)).allowed


def test_scopes() -> None:
    elsewhere = build.policy("p", DENY, build.rule(), namespace="web")
    assert judge(elsewhere).allowed
    everywhere = build.policy("p", DENY, build.rule(), namespace="root")
    assert not judge(everywhere).allowed
    selected = build.policy("p", DENY, build.rule(), namespace="root", selector={"app": "api"})
    assert not judge(selected).allowed
    other = build.policy("p", DENY, build.rule(), selector={"app": "db"})
    assert judge(other).allowed


def test_audit_and_dry_run_are_recorded_and_not_enforced() -> None:
    audit = build.policy("watch", PolicyAction.AUDIT, build.rule(FROM_WEB))
    dry = build.policy("trial", DENY, build.rule(FROM_WEB), dry_run=True)
    allow = build.policy("only", ALLOW, dry_run=True)
    verdict = judge(audit, dry, allow)
    assert verdict.allowed
    assert [str(ref) for ref in verdict.audited] == ["AuthorizationPolicy shop/watch rule[0]"]
    assert [ref.policy for ref in verdict.dry_run] == ["shop/trial", "shop/only"]


def test_rules_that_need_l7_fail_closed() -> None:
    paths = ["to[0].operation.paths"]
    deny = build.policy("d", DENY, build.rule(FROM_WEB, l7=paths))
    assert judge(deny).decision is Decision.NEEDS_L7
    assert judge(deny, facts=build.facts("td/ns/shop/sa/x")).allowed
    allow = build.policy("a", ALLOW, build.rule(FROM_WEB, l7=paths))
    assert judge(allow).decision is Decision.NEEDS_L7
    custom = build.policy("c", PolicyAction.CUSTOM, build.rule(FROM_WEB))
    assert judge(custom).decision is Decision.NEEDS_L7


def test_strict_refuses_plaintext_and_names_the_object() -> None:
    wide = build.authentication("default", MtlsMode.STRICT, namespace="root")
    verdict = judge(wide, facts=build.facts(None))
    assert str(verdict) == "denied by PeerAuthentication root/default (strict_mtls)"
    assert judge(wide).allowed


def test_narrower_modes_win_and_unset_inherits() -> None:
    wide = build.authentication("wide", MtlsMode.STRICT, namespace="root")
    own = build.authentication("own", MtlsMode.UNSET)
    plain = build.facts(None)
    assert not judge(wide, own, facts=plain).allowed
    ports = {8080: MtlsMode.DISABLE, 443: MtlsMode.UNSET}
    one = build.authentication("one", MtlsMode.UNSET, selector={"app": "api"}, ports=ports)
    assert judge(wide, own, one, facts=build.facts(None, port=8080)).allowed
    assert not judge(wide, own, one, facts=build.facts(None, port=443)).allowed


def test_the_oldest_of_a_scope_wins() -> None:
    young = build.authentication("a", MtlsMode.STRICT, created="2025-01-01T00:00:00Z")
    old = build.authentication("b", MtlsMode.PERMISSIVE, created="2024-01-01T00:00:00Z")
    assert judge(young, old, facts=build.facts(None)).allowed


def test_behind_a_waypoint_only_the_waypoint_is_admitted() -> None:
    dst = build.workload("api", waypoint="shop/wp")
    pod = build.workload(
        "wp-1", account="wp", labels={"gateway.networking.k8s.io/gateway-name": "wp"}
    )
    verdict = judge(dst=dst, others=(pod,))
    assert str(verdict) == "denied by Waypoint shop/wp (waypoint_required)"
    assert judge(dst=dst, others=(pod,), facts=build.facts("td/ns/shop/sa/wp")).allowed
    missing = judge(dst=dst, facts=build.facts("td/ns/shop/sa/wp"))
    assert missing.decision is Decision.WAYPOINT_REQUIRED


def test_explanation_lists_every_rule_and_why_it_did_not_match() -> None:
    web = build.workload("front", namespace="web", account="front", addresses=["10.0.0.9"])
    deny = build.policy("d", DENY, build.rule(L4Match(namespaces=build.texts("dev"))))
    allow = build.policy("a", ALLOW, build.rule(FROM_WEB, to=L4Match(dst_ports=frozenset({80}))))
    index = PolicyIndex.compile(build.snapshot(API, web, policies=[allow, deny]))
    steps = explain(index, web, API, 80).steps
    assert [(str(s.ref), s.outcome, s.detail, s.decided) for s in steps] == [
        ("AuthorizationPolicy shop/d rule[0]", Outcome.NOT_MATCHED, "from[0]: namespaces", False),
        ("AuthorizationPolicy shop/a rule[0]", Outcome.MATCHED, "", True),
    ]
    refused = explain(index, None, API, 81)
    assert not refused.verdict.allowed
    assert refused.steps[1].detail == "from[0]: namespaces"
    assert refused.steps[1].decided
