"""Pure parts of the waypoint: sniffing, retries, choice of endpoints, headers, origins."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from mesh.http1.message import Framing, RequestHead, ResponseHead
from mesh.model.address import SocketAddress, parse_socket_address
from mesh.model.connection import Party
from mesh.model.identity import SpiffeId
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import Endpoint, Service, ServiceKey, ServicePort, Workload, WorkloadUid
from waypoint.contract import FailureKind
from waypoint.downstream.inbound import find_origin
from waypoint.downstream.sniff import PREFACE, Known, Spoken, classify, known_protocol
from waypoint.exchange.forward_headers import caller_fields, new_request_id, prepare_request
from waypoint.resilience import retry
from waypoint.routing.plan import RetryRule
from waypoint.upstream.endpoints import Endpoints
from waypoint.upstream.target import Speaks, Target, TargetKey, choose

CALLER = SpiffeId(trust_domain="t", namespace="shop", service_account="client")
addr = parse_socket_address


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", None),
        (b"G", None),
        (b"GET ", Spoken.HTTP1),
        (b"\r\nGET /", Spoken.HTTP1),
        (b"M-SEARCH * HTTP/1.1", Spoken.HTTP1),
        (b"PRI", None),
        (b"PRI * HTTP/2.0\r\n\r\nSM", None),
        (PREFACE, Spoken.HTTP2),
        (PREFACE + b"\0\0", Spoken.HTTP2),
        (b"PRIVATE /", Spoken.HTTP1),
        (b"\x16\x03\x01", Spoken.OPAQUE),
        (b"get / ", Spoken.OPAQUE),
        (b"SSH-2.0-x", Spoken.OPAQUE),
        (b"A" * 40, Spoken.OPAQUE),
    ],
)
def test_first_bytes_tell_the_protocol(data: bytes, wanted: Spoken | None) -> None:
    assert classify(data) is wanted


def test_a_port_that_names_its_protocol_is_believed() -> None:
    assert known_protocol("kubernetes.io/h2c") is Known.HTTP2
    assert known_protocol("HTTP") is Known.HTTP
    assert known_protocol("mysql") is Known.OPAQUE
    assert known_protocol("") is Known.NOTHING
    assert known_protocol("example.com/own") is Known.NOTHING


DEFAULT, ASKED = RetryRule(), RetryRule(attempts=2, codes=frozenset({503}), on_failure=True)


@pytest.mark.parametrize(
    ("kind", "method", "tries", "rule", "wanted"),
    [
        (FailureKind.NEVER_SENT, b"POST", 1, DEFAULT, True),
        (FailureKind.NEVER_SENT, b"POST", 3, DEFAULT, False),
        (FailureKind.NO_ANSWER_REUSED, b"GET", 1, DEFAULT, True),
        (FailureKind.NO_ANSWER_REUSED, b"POST", 1, ASKED, False),
        (FailureKind.MAY_BE_DELIVERED, b"GET", 1, DEFAULT, False),
        (FailureKind.MAY_BE_DELIVERED, b"GET", 1, ASKED, True),
        (FailureKind.MAY_BE_DELIVERED, b"GET", 3, ASKED, False),
        (FailureKind.MAY_BE_DELIVERED, b"POST", 1, ASKED, False),
        (FailureKind.MAY_BE_DELIVERED, b"PATCH", 1, ASKED, False),
    ],
)
def test_what_may_have_been_delivered_is_repeated_only_if_that_is_harmless(
    kind: FailureKind, method: bytes, tries: int, rule: RetryRule, wanted: bool
) -> None:
    assert retry.retries_failure(kind, method, tries, rule) is wanted


def test_statuses_and_back_off() -> None:
    assert retry.retries_response(response(503), b"GET", 2, ASKED)
    assert not retry.retries_response(response(503), b"GET", 3, ASKED)
    assert not retry.retries_response(response(502), b"GET", 1, ASKED)
    assert not retry.retries_response(response(503), b"POST", 1, ASKED)
    unavailable = response(200, (b"grpc-status", b"14"))
    assert not retry.retries_response(unavailable, b"POST", 1, ASKED)
    calls = replace(ASKED, grpc_codes=frozenset({14}))
    assert retry.retries_response(unavailable, b"POST", 1, calls)
    assert not retry.retries_response(response(200), b"POST", 1, calls)
    waits = [retry.backoff_s(tries, ASKED, Random(tries)) for tries in range(1, 30)]
    assert all(0.025 <= wait <= 0.25 for wait in waits)


def targets(count: int) -> list[Target]:
    keys = (
        TargetKey(address=addr(f"10.0.0.{n + 1}:80"), tunnel=None, expected=frozenset())
        for n in range(count)
    )
    return [Target(key, Party()) for key in keys]


def test_the_less_loaded_of_two_is_chosen_and_the_failed_one_avoided() -> None:
    random = Random(3)
    assert choose([], random, None) is None
    two = targets(2)
    two[0].active = 5
    assert {choose(two, random, None) for _ in range(50)} == {two[1]}
    assert choose(two, random, two[1]) is two[0]
    assert choose(two[:1], random, two[0]) is two[0]
    four = targets(4)
    chosen = Counter(choose(four, random, None) for _ in range(4000))
    assert all(800 < chosen[target] < 1200 for target in four)


def response(status: int, *headers: tuple[bytes, bytes]) -> ResponseHead:
    return ResponseHead(
        status=status, headers=list(headers), minor=1, framing=Framing.NONE, length=None,
        keep_alive=True,
    )  # fmt: skip


def request(*headers: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead(
        method=b"GET", target=b"/", host=b"w", headers=list(headers), minor=1,
        framing=Framing.NONE, length=None, keep_alive=True,
    )  # fmt: skip


def test_identity_is_ours_and_the_chain_grows() -> None:
    caller = caller_fields(CALLER, None, "10.0.0.9")
    head = request(
        (b"x-forwarded-client-cert", b"URI=spiffe://t/ns/a/sa/root"),
        (b"x-forwarded-for", b"1.1.1.1"),
        (b"x-forwarded-for", b"2.2.2.2"),
        (b"user-agent", b"ua"),
        (b"content-type", b"application/grpc+proto"),
    )
    seen = prepare_request(head, caller, Random(1))
    fields = dict(head.headers)
    assert fields[b"x-forwarded-client-cert"] == b"URI=spiffe://t/ns/shop/sa/client"
    assert fields[b"x-forwarded-for"] == b"1.1.1.1, 2.2.2.2, 10.0.0.9"
    assert fields[b"x-request-id"] == seen.request_id
    assert seen.is_grpc
    assert seen.user_agent == b"ua"
    assert len(head.headers) == 5


def test_request_ids_are_uuids() -> None:
    from uuid import UUID

    for seed in range(20):
        text = new_request_id(Random(seed)).decode()
        assert str(UUID(text)) == text
        assert UUID(text).version == 4


def workload(name: str, address: str, waypoint: str | None = None) -> Workload:
    return Workload(
        uid=WorkloadUid(f"pod/shop/{name}"), name=name, namespace="shop", service_account=name,
        trust_domain="t", node="n", addresses=(addr(f"{address}:1").ip,), enrolled=True,
        waypoint=waypoint,
    )  # fmt: skip


WEB = workload("web", "10.0.0.2", "shop/gate")
SERVICE = Service(
    key=ServiceKey("shop/web"), name="web", namespace="shop", hostname="web.shop.svc.cluster.local",
    addresses=(addr("10.96.0.1:1").ip,), ports=(ServicePort(port=80, app_protocol="grpc"),),
    endpoints=(Endpoint(address=WEB.addresses[0], workload=WEB.uid, ports={80: 8080}),),
    waypoint="shop/gate",
)  # fmt: skip
MESH = MeshSnapshot(
    revision=1,
    workloads={w.uid: w for w in (WEB, workload("client", "10.0.0.9"), workload("x", "10.0.0.8"))},
    services={SERVICE.key: SERVICE},
)


@pytest.mark.parametrize(
    ("authority", "waypoint", "found"),
    [
        ("10.96.0.1:80", "shop/gate", True),
        ("10.0.0.2:8080", "shop/gate", True),
        ("10.96.0.1:80", "shop/other", False),
        ("10.0.0.8:80", "shop/gate", False),
        ("192.0.2.1:80", "shop/gate", False),
    ],
)
def test_only_what_names_this_waypoint_is_served(
    authority: str, waypoint: str, found: bool
) -> None:
    origin = find_origin(MESH, waypoint, CALLER, addr("10.0.0.9:5"), addr(authority))
    assert (origin is not None) is found
    if origin is not None:
        assert origin.src.name == "client"
        assert (origin.service is None) is (origin.workload is not None)


def test_an_address_does_not_make_a_caller_somebody_else() -> None:
    forged = find_origin(MESH, "shop/gate", CALLER, addr("10.0.0.8:5"), addr("10.96.0.1:80"))
    assert forged is not None
    assert forged.src.name == ""
    assert forged.src.identity == "t/ns/shop/sa/client"


def test_targets_keep_their_state_over_snapshots() -> None:
    first = Endpoints(MESH)
    group = first.service(SERVICE.key, 80, 4)
    assert group is not None
    assert group.speaks is Speaks.HTTP2
    (target,) = group.targets
    assert target.key.tunnel == SocketAddress(WEB.addresses[0], 15008)
    assert target.key.expected == {WEB.identity}
    second = Endpoints(replace(MESH, revision=2), first)
    again = second.service(SERVICE.key, 80, 4)
    assert again is not None
    assert again.targets[0] is target
    assert second.service(SERVICE.key, 81, 4) is None
    assert second.service(ServiceKey("shop/none"), 80, 4) is None
