"""The engine against a naive reference, and its answers against their own grounds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.policy import AuthorizationPolicy
from mesh.model.verdict import Verdict
from mesh.policy.l7.engine import RequestIndex
from mesh.policy.l7.facts import AskProviders, RequestFacts
from mesh.policy.l7.paths import compile_template
from tests.unit.mesh.policy.l7 import reference
from tests.unit.mesh.policy.l7.build import (
    PATHS,
    TEMPLATES,
    WAYPOINT,
    facts,
    policy_sets,
    requests,
    snapshot,
)


@settings(max_examples=150, deadline=None)
@given(policy_sets(), st.lists(requests(), min_size=1, max_size=4))
def test_it_decides_as_the_naive_reference(
    policies: tuple[AuthorizationPolicy, ...], asked: list[RequestFacts]
) -> None:
    mesh = snapshot(*policies)
    index = RequestIndex.compile(mesh, WAYPOINT)
    for request in asked:
        providers, decision = reference.decide(mesh, WAYPOINT, request)
        found = index.evaluate(request)
        if isinstance(found, AskProviders):
            assert sorted(ask.provider.name for ask in found.asks) == providers
            found = index.after_providers(request)
        else:
            assert providers == []
        assert found.decision is decision
        _check_grounds(found, policies, request)


def _check_grounds(
    found: Verdict, policies: tuple[AuthorizationPolicy, ...], request: RequestFacts
) -> None:
    """Whatever rule is named matches; marks are exactly what they claim to be."""
    mesh, by_key = snapshot(*policies), {item.key: item for item in policies}
    for ref in (found.decided_by, *found.audited):
        if ref is not None and ref.rule is not None:
            rule = by_key[ref.policy].rules[ref.rule]
            assert reference.rule_matches(mesh, rule, request)
    audits = {
        (item.key, number)
        for item in policies
        for number, rule in enumerate(item.rules)
        if item.action == "AUDIT"
        and not rule.unsupported
        and reference.applies(mesh, WAYPOINT, item, request)
        and reference.rule_matches(mesh, rule, request)
    }
    assert {(ref.policy, ref.rule) for ref in found.audited} == audits
    assert all(by_key[ref.policy].dry_run for ref in found.dry_run)


@settings(max_examples=50, deadline=None)
@given(policy_sets(), policy_sets(), requests())
def test_a_previous_index_changes_nothing(
    old: tuple[AuthorizationPolicy, ...], new: tuple[AuthorizationPolicy, ...], asked: RequestFacts
) -> None:
    previous = RequestIndex.compile(snapshot(*old), WAYPOINT)
    previous.evaluate(asked)
    mesh = snapshot(*new, *old[:1])
    lent = RequestIndex.compile(mesh, WAYPOINT, previous).evaluate(asked)
    assert lent == RequestIndex.compile(mesh, WAYPOINT).evaluate(asked)


@settings(max_examples=200)
@given(
    st.one_of(
        st.sampled_from(TEMPLATES),
        st.lists(st.sampled_from(("a", "{*}", "", "bc"))).map(lambda parts: "/" + "/".join(parts)),
    ),
    st.one_of(st.sampled_from(PATHS), st.text(alphabet="/abc", max_size=8).map("/{}".format)),
)
def test_templates_hit_what_their_definition_says(text: str, path: str) -> None:
    template = compile_template(text)
    assert template.hits(path) is reference._template(text, path)
    assert not template.hits(path) or path.startswith(template.prefix)


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_path_and_host_break_it(path: str, host: str) -> None:
    index = RequestIndex.compile(snapshot(), WAYPOINT)
    assert isinstance(index.evaluate(facts(path=path, host=host)), Verdict)
