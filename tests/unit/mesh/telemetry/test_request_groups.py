"""Requests that were added up elsewhere count like those that were recorded one by one."""

from __future__ import annotations

from bisect import bisect_left

from mesh.model.address import SocketAddress, parse_ip
from mesh.model.connection import Party
from mesh.model.request import RequestFlag, RequestRecord
from mesh.telemetry.requests import BUCKETS_MS, RequestGroup, RequestTally

SRC, DST = Party(name="client", namespace="shop"), Party(name="web", namespace="shop")
ADDRESS = SocketAddress(parse_ip("10.0.0.1"), 80)
DURATION_S, SENT, COUNT = 0.007, 1300, 3


def record() -> RequestRecord:
    return RequestRecord(
        src=SRC,
        dst=DST,
        service="shop/web",
        protocol="HTTP/1.1",
        method="GET",
        path="/",
        authority="web",
        status=200,
        grpc_status=-1,
        flag=RequestFlag.NONE,
        details="via_upstream",
        bytes_received=0,
        bytes_sent=SENT,
        started_at=0.0,
        duration_s=DURATION_S,
        upstream_s=None,
        upstream_addr=ADDRESS,
        client_addr=ADDRESS,
        dialled_addr=ADDRESS,
        route="HTTPRoute/shop/web/0",
        request_id="",
        user_agent="",
        forwarded_for="",
        tries=1,
        mutual_tls=True,
    )


def buckets(value: float) -> list[int]:
    counts = [0] * (len(BUCKETS_MS) + 1)
    counts[bisect_left(BUCKETS_MS, value)] = COUNT
    return counts


def test_a_group_counts_like_its_requests() -> None:
    one_by_one, together = RequestTally("c"), RequestTally("c")
    for _ in range(COUNT):
        one_by_one.record(record())
    group = RequestGroup(
        src=SRC,
        dst=DST,
        service="shop/web",
        protocol="HTTP/1.1",
        status=200,
        flag=RequestFlag.NONE,
        mutual_tls=True,
        count=COUNT,
        seconds=sum([DURATION_S] * COUNT),
        received=0,
        sent=SENT * COUNT,
        buckets=buckets(DURATION_S * 1000),
        received_buckets=buckets(0),
        sent_buckets=buckets(SENT),
        route="HTTPRoute/shop/web/0",
    )
    together.add(group)
    (wanted,), (found,) = one_by_one.take(), together.take()
    assert found == wanted
