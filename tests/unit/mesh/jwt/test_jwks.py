"""A key source over time: refresh, last good keys, back-off, forced refresh, discovery."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.jwt.index import AuthenticationIndex
from mesh.jwt.jwks import (
    FIRST_RETRY_S,
    FORCED_S,
    LAST_RETRY_S,
    REFRESH_S,
    Fetch,
    JwksLocation,
    JwksSource,
    LocationKind,
    location_of,
)
from mesh.model.authentication import JwtRule, RequestAuthentication
from mesh.model.policy import PolicyKey, PolicyScope, PolicyTarget, TargetKind
from mesh.model.snapshot import MeshSettings, MeshSnapshot
from mesh.model.workload import Service, ServiceKey
from tests.unit.mesh.jwt.issuer import ISSUER, jwks, rule, signer

GOOD, OTHER = jwks(signer("ES256", "a")), jwks(signer("ES256", "a"), signer("ES256", "b"))
URI = location_of(rule(jwks_uri="https://id.example/keys"))
DISCOVERY = location_of(rule())


def begun(source: JwksSource, now: float) -> Fetch:
    fetch = source.on_deadline(now)
    assert fetch is not None
    assert source.is_fetching
    assert source.next_deadline() is None
    return fetch


def filled(now: float = 0.0) -> JwksSource:
    source = JwksSource(URI, now)
    assert source.fetched(begun(source, now), GOOD, now, 0.0) is None
    return source


def test_inline_keys_are_there_at_once_and_never_fetched() -> None:
    source = JwksSource(location_of(rule(jwks=GOOD.decode())), 5.0)
    assert source.keys is not None
    assert source.next_deadline() is None
    assert source.on_deadline(1e9) is None
    assert source.wants_refresh(1e9) is None


def test_keys_are_fetched_at_once_and_then_again() -> None:
    source = JwksSource(URI, 100.0)
    assert (source.keys, source.next_deadline()) == (None, 100.0)
    fetch = begun(source, 100.0)
    assert fetch.url == "https://id.example/keys"
    source.fetched(fetch, GOOD, 101.0, 0.5)
    assert source.keys is not None
    assert source.next_deadline() == 101.0 + REFRESH_S * 0.95
    assert source.on_deadline(102.0) is None
    source.fetched(begun(source, 102.0 + REFRESH_S), OTHER, 103.0 + REFRESH_S, 0.0)
    assert len(source.keys.keys) == 2
    assert source.status(104.0 + REFRESH_S).age_s == 1.0


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"keys": []}', b'{"keys": [{"kty": "oct"}]}'])
def test_last_good_keys_stay_when_an_answer_is_bad(body: bytes) -> None:
    source = filled()
    before = source.keys
    source.fetched(begun(source, REFRESH_S), body, REFRESH_S, 0.0)
    assert source.keys is before
    assert source.next_deadline() == REFRESH_S + FIRST_RETRY_S
    status = source.status(REFRESH_S)
    assert (status.keys, status.failures, status.age_s) == (1, 1, REFRESH_S)
    assert status.error


def test_pauses_grow_to_a_limit_and_end_with_success() -> None:
    source, now, pauses = filled(), REFRESH_S, []
    for _ in range(40):
        source.failed(begun(source, now), "down", now, 0.0)
        due = source.next_deadline()
        assert due is not None
        pauses.append(due - now)
        now = due
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == LAST_RETRY_S
    source.fetched(begun(source, now), GOOD, now, 0.0)
    assert (source.status(now).failures, source.status(now).error) == (0, "")
    source.failed(begun(source, now + REFRESH_S), "down", now + REFRESH_S, 0.0)
    assert source.next_deadline() == now + REFRESH_S + FIRST_RETRY_S


def test_an_unknown_key_forces_a_fetch_but_not_often() -> None:
    source = filled()
    assert source.wants_refresh(FORCED_S - 1) is None
    fetch = source.wants_refresh(FORCED_S)
    assert fetch is not None
    assert source.wants_refresh(FORCED_S * 5) is None, "one is under way"
    source.failed(fetch, "down", FORCED_S, 0.0)
    assert source.wants_refresh(FORCED_S * 1.5) is None
    assert source.wants_refresh(FORCED_S * 2) is not None


def test_late_answers_are_ignored() -> None:
    source = filled()
    old = begun(source, REFRESH_S)
    source.failed(old, "slow", REFRESH_S, 0.0)
    source.fetched(old, OTHER, REFRESH_S, 0.0)
    assert source.keys is not None
    assert len(source.keys.keys) == 1
    new = begun(source, REFRESH_S + 5)
    source.failed(old, "late", REFRESH_S + 6, 0.0)
    assert source.is_fetching
    source.fetched(new, OTHER, REFRESH_S + 6, 0.0)
    assert len(source.keys.keys) == 2


def metadata(**members: object) -> bytes:
    base = {"issuer": ISSUER, "jwks_uri": "https://keys.example/all"}
    return json.dumps({**base, **members}).encode()


def test_discovery_asks_the_issuer_first() -> None:
    source = JwksSource(DISCOVERY, 0.0)
    first = begun(source, 0.0)
    assert first.url == f"{ISSUER}/.well-known/openid-configuration"
    second = source.fetched(first, metadata(), 1.0, 0.0)
    assert second is not None
    assert second.url == "https://keys.example/all"
    assert source.is_fetching
    assert source.fetched(second, GOOD, 2.0, 0.0) is None
    assert source.keys is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        metadata(issuer="https://evil.example"),
        metadata(issuer=ISSUER + "/"),
        metadata(jwks_uri=None),
        metadata(jwks_uri="http://keys.example"),
        metadata(jwks_uri="file:///etc/passwd"),
        b" " * 300_000,
    ],
)
def test_discovery_refuses_other_metadata(body: bytes) -> None:
    source = JwksSource(DISCOVERY, 0.0)
    assert source.fetched(begun(source, 0.0), body, 0.0, 0.0) is None
    assert source.keys is None
    assert source.status(0.0).failures == 1


def test_plain_http_keys_need_permission() -> None:
    location = location_of(rule(allow_http=True))
    source = JwksSource(location, 0.0)
    body = metadata(jwks_uri="http://keys.example")
    assert source.fetched(begun(source, 0.0), body, 0.0, 0.0) is not None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("tick", "unknown", "good", "other", "bad", "fail", "stale")),
            st.floats(0, 700),
            st.floats(0, 0.99),
        ),
        max_size=30,
    )
)
def test_whatever_happens_keys_stay_and_fetches_are_bounded(
    steps: list[tuple[str, float, float]],
) -> None:
    source, now, fetch = JwksSource(URI, 0.0), 0.0, Fetch("", 0)
    had, begins = False, []
    for what, pause, jitter in steps:
        now += pause
        started = None
        match what:
            case "tick":
                started = source.on_deadline(now)
            case "unknown":
                started = source.wants_refresh(now)
            case "fail":
                source.failed(fetch, "down", now, jitter)
            case "stale":
                source.fetched(Fetch("x", 9999), OTHER, now, jitter)
            case _:
                body = {"good": GOOD, "other": OTHER}.get(what, b"")
                source.fetched(fetch, body, now, jitter)
        if started is not None:
            begins.append(now)
            fetch = started
        had = had or source.keys is not None
        assert (source.keys is not None) == had, "keys never go away"
        assert source.is_fetching or source.next_deadline() is not None, "it never stalls"
    pairs = pairwise(begins)
    assert all(later - earlier >= FIRST_RETRY_S for earlier, later in pairs)


def authentication(name: str, target: PolicyTarget, *rules: JwtRule) -> RequestAuthentication:
    return RequestAuthentication(
        key=PolicyKey(f"shop/{name}"),
        namespace="shop",
        name=name,
        scope=PolicyScope.TARGET,
        rules=rules,
        targets=(target,),
    )


def test_the_rules_of_a_waypoint_are_merged_per_service() -> None:
    service = PolicyTarget(kind=TargetKind.SERVICE, namespace="shop", name="api")
    gateway = PolicyTarget(kind=TargetKind.GATEWAY, namespace="shop", name="wp")
    far = PolicyTarget(kind=TargetKind.SERVICE, namespace="shop", name="far")
    foreign = PolicyTarget(kind=TargetKind.GATEWAY, namespace="shop", name="other")
    one, two, three = rule(), rule(issuer="https://b"), rule(issuer="https://c")
    key = ServiceKey("shop/api")
    api = Service(
        key=key,
        name="api",
        namespace="shop",
        hostname="api",
        addresses=(),
        ports=(),
        waypoint="shop/wp",
    )
    items = (
        authentication("g", gateway, one),
        authentication("s", service, two, one),
        authentication("o", foreign, three),
        authentication("f", far, three),
    )
    snapshot = MeshSnapshot(
        revision=1,
        settings=MeshSettings(),
        services={key: api},
        request_authentications={item.key: item for item in items},
    )
    index = AuthenticationIndex(snapshot, "shop/wp")
    found = index.authenticator(key)
    assert found is not None
    assert found.rules == (one, two)
    other = index.authenticator(ServiceKey("x/y"))
    assert other is not None
    assert other.rules == (one,)
    assert index.key_sources() == {location_of(one), location_of(two)}
    assert AuthenticationIndex(MeshSnapshot(revision=1), "a/b").authenticator(None) is None


def test_where_the_keys_of_a_rule_are() -> None:
    kinds = [LocationKind.INLINE, LocationKind.URI, LocationKind.DISCOVERY]
    rules = (rule(jwks="{}"), rule(jwks_uri="https://x"), rule())
    assert [location_of(item).kind for item in rules] == kinds
    assert JwksLocation(kind=LocationKind.INLINE, text="{}") == location_of(rules[0])
