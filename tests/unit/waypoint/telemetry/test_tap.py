"""What a tap shows, what it hides, and what it loses."""

from __future__ import annotations

import asyncio
import json

import pytest

from mesh.errors import ConfigError
from tests.unit.waypoint.records import record
from waypoint.telemetry.tap import MAX_PENDING, TapEvent, WorkerTaps, parse_filter, tap_event, wants
from waypoint.telemetry.tap_stream import QUEUE_EVENTS, TapReaders

HEADERS = [
    (b"x-tenant", b"a"),
    (b"authorization", b"Bearer abc"),
    (b"cookie", b"sid=1"),
    (b"x-twice", b"1"),
    (b"x-twice", b"2"),
]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({}, True),
        ({"method": "get"}, True),
        ({"method": "POST"}, False),
        ({"path": "/v1"}, True),
        ({"path": "/v2"}, False),
        ({"status": "200"}, True),
        ({"status": "2xx"}, True),
        ({"status": "5xx"}, False),
        ({"source": "shop/client"}, True),
        ({"source": "shop/web"}, False),
        ({"source": "shop/"}, True),
        ({"about": "shop/web"}, True),
        ({"about": "shop/web-1"}, True),
        ({"about": "other/"}, False),
        ({"header": "X-Tenant"}, True),
        ({"header": "x-tenant:a"}, True),
        ({"header": "x-tenant: b"}, False),
        ({"header": "x-none"}, False),
        ({"header": "authorization"}, True),
        ({"header": "authorization:Bearer abc"}, False),
        ({"denied": "1"}, False),
        ({"method": "GET", "status": "404"}, False),
    ],
)
def test_filters(query: dict[str, str], wanted: bool) -> None:
    assert wants(parse_filter(1, query), record(), HEADERS) is wanted


def test_what_policy_refused_is_denied() -> None:
    tap = parse_filter(1, {"denied": "1"})
    assert wants(tap, record(status=403, policy="AuthorizationPolicy shop/no rule[0]"), [])
    assert wants(tap, record(status=401, details="jwt_authn_access_denied{x}"), [])
    assert not wants(tap, record(status=404), [])


@pytest.mark.parametrize(
    "query", [{"colour": "red"}, {"status": "9"}, {"status": "xx4"}, {"about": "web"}]
)
def test_a_bad_filter_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        parse_filter(1, query)


def test_credentials_and_queries_are_not_shown() -> None:
    event = tap_event(record(), HEADERS)
    assert event["path"] == "/v1/items"
    assert event["headers"] == {
        "x-tenant": "a",
        "authorization": "[redacted]",
        "cookie": "[redacted]",
        "x-twice": "1, 2",
    }
    assert "secret" not in json.dumps(event)
    assert event["src.identity"] == "spiffe://cluster.local/ns/shop/sa/client"
    assert event["dst.workload"] == "web-1"
    assert event["duration_ms"] == 250.0


def test_a_worker_keeps_a_bounded_number() -> None:
    taps = WorkerTaps()
    assert not taps.replace([])
    taps.offer(record(), [])
    assert taps.take() == []
    assert taps.replace([parse_filter(1, {}), parse_filter(2, {"method": "POST"})])
    for _ in range(MAX_PENDING + 7):
        taps.offer(record(), [])
    ((tap, events, lost),) = taps.take()
    assert (tap, len(events), lost) == (1, MAX_PENDING, 7)
    assert taps.take() == []


def test_readers_come_and_go_and_a_slow_one_is_told() -> None:
    async def main() -> None:
        changes: list[int] = []
        readers = TapReaders(lambda filters: changes.append(len(filters)))
        event: TapEvent = {"kind": "request"}
        with readers.reader({}) as one, readers.reader({"method": "GET"}) as two:
            assert [tap.id for tap in readers.filters] == [1, 2]
            readers.offer(1, [event] * QUEUE_EVENTS, 3)
            readers.offer(1, [event], 0)
            readers.offer(9, [event], 0)
            lines = (await one.lines()).splitlines()
            assert json.loads(lines[0]) == {"lost": 4}
            assert len(lines) == 101
            assert await two.lines() == b"\n"
        assert changes == [1, 2, 1, 0]
        with pytest.raises(ConfigError), readers.reader({"colour": "red"}):
            pass
        assert changes[-1] == 0

    asyncio.run(main())
