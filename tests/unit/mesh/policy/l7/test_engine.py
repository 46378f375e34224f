"""Rules over requests, case by case."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from mesh.model.policy import (
    L4Match,
    NamedMatch,
    PolicyAction,
    PolicyScope,
    RequestMatch,
    Rule,
    StringMatch,
)
from mesh.model.verdict import Decision, Verdict
from mesh.policy.l7.engine import RequestIndex, provider_denied
from mesh.policy.l7.facts import AskProviders, RequestFacts
from mesh.policy.l7.match import host_forms
from tests.unit.mesh.policy.build import policy as pod_policy
from tests.unit.mesh.policy.build import texts
from tests.unit.mesh.policy.l7.build import (
    CLASS,
    GATEWAY,
    SETTINGS,
    WAYPOINT,
    facts,
    policy,
    snapshot,
    to,
)

ALLOW, DENY, CUSTOM, AUDIT = (
    PolicyAction.ALLOW,
    PolicyAction.DENY,
    PolicyAction.CUSTOM,
    PolicyAction.AUDIT,
)


def judge(request: RequestFacts, *policies: object) -> Verdict:
    found = RequestIndex.compile(snapshot(*policies), WAYPOINT).evaluate(request)  # type: ignore[arg-type]  # a test's shorthand
    assert isinstance(found, Verdict)
    return found


def template(text: str) -> tuple[StringMatch, ...]:
    return (StringMatch(kind="template", value=text),)


@pytest.mark.parametrize(
    ("text", "hits", "misses"),
    [
        ("/foo/{*}", ["/foo/bar"], ["/foo", "/foo/", "/foo/bar/baz", "/foo/bar/", "/x/bar"]),
        ("/foo/{**}/", ["/foo/bar/", "/foo//", "/foo/a/b/"], ["/foo/bar", "/foo/", "/foo"]),
        ("/foo/{**}", ["/foo/", "/foo/a", "/foo/a/b/"], ["/foo", "/foobar"]),
        ("/{*}/x/{**}/y", ["/a/x//y", "/a/x/b/c/y"], ["/a/x/y", "/a/b/x/c/y", "//x/b/y"]),
        ("/{**}", ["/", "/a"], []),
    ],
)
def test_path_templates(text: str, hits: list[str], misses: list[str]) -> None:
    rules = policy("p", ALLOW, to(RequestMatch(paths=template(text))))
    for path in hits:
        assert judge(facts(path=path), rules).allowed, path
        assert judge(facts(path=path + "?q=1"), rules).allowed
    for path in misses:
        assert not judge(facts(path=path), rules).allowed, path


def test_methods_count_with_case_and_hosts_without() -> None:
    rules = policy("p", DENY, to(RequestMatch(methods=texts("GET"), hosts=texts("admin.x"))))
    assert judge(facts("GET", host="Admin.X"), rules).decision is Decision.DENY_RULE
    assert judge(facts("get", host="admin.x"), rules).allowed


@pytest.mark.parametrize("host", ["admin.x", "ADMIN.x:80", "admin.x.", "admin.x.:8080"])
def test_a_port_or_a_dot_is_no_way_round_a_host(host: str) -> None:
    rules = policy("p", DENY, to(RequestMatch(hosts=texts("admin.x"))))
    assert not judge(facts(host=host), rules).allowed
    assert judge(facts(host="admin.xy"), rules).allowed


def test_a_host_with_a_port_wants_it_sent() -> None:
    rules = policy("p", DENY, to(RequestMatch(hosts=texts("a.x:8080", "b.x:*"))))
    assert not judge(facts(host="a.x:8080"), rules).allowed
    assert not judge(facts(host="b.x:1"), rules).allowed
    assert judge(facts(host="a.x"), rules).allowed
    assert judge(facts(host="b.x"), rules).allowed


@pytest.mark.parametrize(
    ("authority", "forms"),
    [
        ("[FD00::1]:80", {"[fd00::1]:80", "[fd00::1]"}),
        ("[fd00::1]", {"[fd00::1]"}),
        ("fd00::1", {"fd00::1"}),
        ("", {""}),
        (":80", {":80", ""}),
    ],
)
def test_forms_of_an_authority(authority: str, forms: set[str]) -> None:
    assert set(host_forms(authority)) == forms


def test_header_conditions() -> None:
    tenant = NamedMatch(name=("x-tenant",), values=texts("a*"), not_values=texts("ab"))
    rules = policy("p", ALLOW, Rule(conditions=(L4Match(request=RequestMatch(header=tenant)),)))
    assert judge(facts(headers={"x-tenant": "abc"}), rules).allowed
    for headers in ({}, {"x-tenant": "ab"}, {"x-tenant": "b"}, {"x-other": "a"}):
        assert not judge(facts(headers=headers), rules).allowed
    present = NamedMatch(name=("host",), values=texts("*"))
    host = policy("p", ALLOW, Rule(conditions=(L4Match(request=RequestMatch(header=present)),)))
    assert judge(facts(host="x"), host).allowed, "the authority is the Host header"
    assert not judge(facts(headers={"host": ""}), host).allowed


def test_requiring_a_token() -> None:
    anyone = RequestMatch(request_principals=texts("*"))
    rules = policy("p", ALLOW, Rule(sources=(L4Match(request=anyone),)))
    assert judge(facts(claims={"iss": "i", "sub": "s"}), rules).allowed
    assert not judge(facts(), rules).allowed
    assert not judge(facts(claims={"iss": "i"}), rules).allowed
    nobody = RequestMatch(not_request_principals=texts("*"))
    inverse = policy("p", DENY, Rule(sources=(L4Match(request=nobody),)))
    assert not judge(facts(), inverse).allowed
    assert judge(facts(claims={"iss": "i", "sub": "s"}), inverse).allowed


def test_the_remote_address_is_that_of_the_client() -> None:
    remote = RequestMatch(remote_ips=(ip_network("192.0.2.0/24"),))
    rules = policy("p", ALLOW, Rule(sources=(L4Match(request=remote),)))
    assert judge(facts(remote="192.0.2.7"), rules).allowed
    assert not judge(facts(src="192.0.2.7", remote="10.0.0.1"), rules).allowed
    assert judge(facts(src="192.0.2.7"), rules).allowed


def test_l4_and_l7_of_one_source_belong_together() -> None:
    one = L4Match(namespaces=texts("web"), request=RequestMatch(request_principals=texts("i/a")))
    two = L4Match(namespaces=texts("far"), request=RequestMatch(request_principals=texts("i/b")))
    rules = policy("p", ALLOW, Rule(sources=(one, two)))
    assert judge(facts(claims={"iss": "i", "sub": "a"}), rules).allowed
    assert not judge(facts(claims={"iss": "i", "sub": "b"}), rules).allowed


def test_the_order_of_actions_and_who_is_named() -> None:
    everything = Rule()
    paths = to(RequestMatch(paths=texts("/admin*")))
    allow, no = (
        policy("a", ALLOW, everything),
        policy(
            "d",
            DENY,
            Rule(operations=(L4Match(request=RequestMatch(methods=texts("PUT"))),)),
            paths,
        ),
    )
    found = judge(facts(path="/admin/x"), allow, no)
    assert (found.decision, str(found.decided_by)) == (
        Decision.DENY_RULE,
        "AuthorizationPolicy shop/d rule[1]",
    )
    found = judge(facts(), allow, no)
    assert str(found.decided_by) == "AuthorizationPolicy shop/a rule[0]"
    nothing = policy("n", ALLOW)
    found = judge(facts(), nothing)
    assert (found.decision, str(found.decided_by)) == (
        Decision.NO_ALLOW_MATCH,
        "AuthorizationPolicy shop/n",
    )
    assert judge(facts(), no).decision is Decision.NO_POLICY


def test_custom_comes_first_and_names_the_provider() -> None:
    custom = policy("c", CUSTOM, to(RequestMatch(paths=texts("/x*"))), provider="ask")
    other = policy("e", CUSTOM, Rule(), provider="late", targets=(GATEWAY,))
    no = policy("d", DENY, Rule())
    index = RequestIndex.compile(snapshot(custom, other, no), WAYPOINT)
    found = index.evaluate(facts(path="/x"))
    assert isinstance(found, AskProviders)
    assert [(ask.provider.name, str(ask.decided_by)) for ask in found.asks] == [
        ("late", "AuthorizationPolicy shop/e rule[0]"),
        ("ask", "AuthorizationPolicy shop/c rule[0]"),
    ]
    assert provider_denied(found.asks[0]).decision is Decision.PROVIDER
    assert index.after_providers(facts(path="/x")).decision is Decision.DENY_RULE


def test_headers_of_a_provider_count_in_what_follows() -> None:
    user = NamedMatch(name=("x-user",), values=texts("*"))
    allow = policy("a", ALLOW, Rule(conditions=(L4Match(request=RequestMatch(header=user)),)))
    custom = policy("c", CUSTOM, Rule(), provider="ask")
    index = RequestIndex.compile(snapshot(custom, allow), WAYPOINT)
    assert isinstance(index.evaluate(facts()), AskProviders)
    assert not index.after_providers(facts()).allowed
    assert index.after_providers(facts(headers={"x-user": "ann"})).allowed


def test_an_unknown_provider_denies() -> None:
    custom = policy("c", CUSTOM, Rule(), provider="gone")
    found = judge(facts(), custom)
    assert (found.allowed, found.decision) == (False, Decision.UNKNOWN_PROVIDER)


def test_what_cannot_be_judged_denies() -> None:
    unsure = Rule(
        operations=(L4Match(request=RequestMatch(paths=texts("/x"))),), unsupported=("filters.y",)
    )
    assert judge(facts(path="/x"), policy("d", DENY, unsure)).decision is Decision.UNSUPPORTED
    assert judge(facts(path="/y"), policy("d", DENY, unsure)).allowed
    assert judge(facts(path="/x"), policy("a", ALLOW, unsure)).decision is Decision.UNSUPPORTED
    assert judge(facts(path="/x"), policy("c", CUSTOM, unsure, provider="ask")).decision is (
        Decision.UNSUPPORTED
    )
    assert judge(facts(path="/x"), policy("u", AUDIT, unsure)).audited == ()


def test_audit_and_dry_run_only_leave_a_mark() -> None:
    hit = to(RequestMatch(paths=texts("/x")))
    found = judge(
        facts(path="/x"),
        policy("u", AUDIT, hit),
        policy("d", DENY, hit, dry_run=True),
        policy("c", CUSTOM, hit, provider="ask", dry_run=True),
    )
    assert found.allowed
    assert [str(ref.policy) for ref in found.audited] == ["shop/u"]
    assert [str(ref.policy) for ref in found.dry_run] == ["shop/d"]
    found = judge(facts(), policy("a", ALLOW, hit, dry_run=True))
    assert (found.allowed, [str(ref.policy) for ref in found.dry_run]) == (True, ["shop/a"])


def test_which_targets_count() -> None:
    root = SETTINGS.root_namespace
    no = Rule()
    assert not judge(facts(service="x/y"), policy("g", DENY, no, targets=(GATEWAY,))).allowed
    assert not judge(facts(service=None), policy("g", DENY, no, targets=(GATEWAY,))).allowed
    assert judge(facts(service="x/y"), policy("s", DENY, no)).allowed
    wide = policy("w", DENY, no, targets=(CLASS,), namespace=root)
    assert not judge(facts(service="x/y"), wide).allowed
    assert judge(facts(), policy("w", DENY, no, targets=(CLASS,))).allowed, "root namespace only"
    for scoped in (
        pod_policy("n", DENY, no),
        pod_policy("r", DENY, no, namespace=root),
        pod_policy("l", DENY, no, selector={"app": "a"}),
    ):
        assert scoped.scope is not PolicyScope.TARGET
        assert judge(facts(), scoped).allowed, "selectors and namespaces are the ztunnel's"
