"""The engine against the naive reference, on random policies and connections."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.policy import AuthorizationPolicy, PeerAuthentication, PolicyAction
from mesh.model.verdict import ConnectionFacts, Decision
from mesh.policy.engine import PolicyIndex
from tests.unit.mesh.policy import build, reference

WAYPOINT = build.workload(
    "wp-1", account="wp", labels={"gateway.networking.k8s.io/gateway-name": "wp"}, enrolled=False
)


@settings(max_examples=300, deadline=None)
@given(
    policies=build.policy_sets(),
    authentications=build.authentication_sets(),
    connections=st.lists(build.connections(), min_size=1, max_size=6),
    labels=st.sampled_from(build.LABELS),
    waypoint=st.sampled_from((None, None, None, "shop/wp", "shop/gone")),
)
def test_engine_agrees_with_the_reference(
    policies: Sequence[AuthorizationPolicy],
    authentications: Sequence[PeerAuthentication],
    connections: Sequence[ConnectionFacts],
    labels: dict[str, str],
    waypoint: str | None,
) -> None:
    dst = build.workload("api", labels=labels, waypoint=waypoint)
    snapshot = build.snapshot(dst, WAYPOINT, policies=policies, authentications=authentications)
    index = PolicyIndex.compile(snapshot)
    for facts in connections:
        verdict = index.evaluate(dst, facts)
        expected = reference.decide(snapshot, dst, facts)
        assert verdict.decision is expected
        assert verdict.allowed is (expected in (Decision.NO_POLICY, Decision.ALLOW_RULE))
        if expected in (Decision.DENY_RULE, Decision.ALLOW_RULE, Decision.NEEDS_L7):
            assert verdict.decided_by is not None
            assert verdict.decided_by.rule is not None
            decider = snapshot.policies[verdict.decided_by.policy]
            assert not decider.dry_run
            assert reference.rule_matches(
                snapshot.settings, decider.rules[verdict.decided_by.rule], facts
            )
        audited = {
            (item.key, number)
            for item in policies
            if item.action is PolicyAction.AUDIT and reference.applies(snapshot.settings, item, dst)
            for number, rule in enumerate(item.rules)
            if not rule.l7_fields and reference.rule_matches(snapshot.settings, rule, facts)
        }
        assert {(ref.policy, ref.rule) for ref in verdict.audited} == audited


@settings(max_examples=50, deadline=None)
@given(before=build.policy_sets(), after=build.policy_sets(), facts=build.connections())
def test_what_a_previous_index_lends_is_not_stale(
    before: Sequence[AuthorizationPolicy],
    after: Sequence[AuthorizationPolicy],
    facts: ConnectionFacts,
) -> None:
    dst = build.workload("api", labels={"app": "a"})
    older = PolicyIndex.compile(build.snapshot(dst, policies=before))
    older.evaluate(dst, facts)
    kept = [*before[:1], *after[1:]]
    snapshot = build.snapshot(dst, policies=kept)
    newer = PolicyIndex.compile(snapshot, older)
    assert newer.evaluate(dst, facts) == PolicyIndex.compile(snapshot).evaluate(dst, facts)
