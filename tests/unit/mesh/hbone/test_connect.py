"""CONNECT requests and responses."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import RemoteProtocolError
from mesh.hbone.authority import HostPort, parse_authority
from mesh.hbone.connect import (
    ConnectRequest,
    build_connect,
    build_response_headers,
    check_connect,
    describe_status,
    parse_connect,
    parse_response,
)
from mesh.hbone.telemetry_headers import (
    Baggage,
    Forwarded,
    parse_baggage,
    parse_forwarded,
    parse_traceparent,
)
from mesh.model.address import SocketAddress

_BASE = [(b":method", b"CONNECT"), (b":authority", b"10.0.0.1:80")]


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        (b"10.0.0.1:8080", SocketAddress(ip_address("10.0.0.1"), 8080)),
        (b"[fd00::1]:80", SocketAddress(ip_address("fd00::1"), 80)),
        (b"[::ffff:10.0.0.1]:80", SocketAddress(ip_address("10.0.0.1"), 80)),
        (b"Web.default.svc:80", HostPort("web.default.svc", 80)),
    ],
)
def test_authority(text: bytes, authority: SocketAddress | HostPort) -> None:
    assert parse_authority(text) == authority


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"10.0.0.1",
        b"10.0.0.1:0",
        b"10.0.0.1:65536",
        b"10.0.0.256:80",
        b"1.2.3:80",
        b"fd00::1:80",
        b"[fd00::1%eth0]:80",
        b"[fd00::1:80",
        b"web",
        b"web:",
        b"web:99999",
        b"web:+80",
        b"web:0",
        b"-web:80",
        b"we b:80",
        b"user@web:80",
        b"w\xc3\xa9b:80",
        b"a" * 300 + b":80",
    ],
)
def test_unusable_authority(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_authority(text)


@given(st.binary(max_size=300))
def test_any_authority_parses_or_is_refused(value: bytes) -> None:
    try:
        authority = parse_authority(value)
    except RemoteProtocolError:
        return
    assert parse_authority(str(authority).encode()) == authority


def test_request_survives_the_wire() -> None:
    request = ConnectRequest(
        authority=SocketAddress(ip_address("fd00::1"), 443),
        baggage=Baggage(
            cluster="c1",
            namespace="shop",
            workload_kind="deployment",
            workload="web",
            service="web",
            version="v2",
            region="eu",
            zone="eu-1",
        ),
        forwarded=Forwarded(source="10.0.0.9:5555", host="web.shop.svc"),
        traceparent=f"00-{'a' * 32}-{'b' * 16}-00",
    )
    headers = build_connect(request)
    assert headers[:2] == [(b":method", b"CONNECT"), (b":authority", b"[fd00::1]:443")]
    assert (b"forwarded", b'for="10.0.0.9:5555";host=web.shop.svc') in headers
    assert parse_connect(headers) == request


@pytest.mark.parametrize(
    "headers",
    [
        _BASE[1:],
        _BASE[:1],
        [(b":method", b"GET"), _BASE[1]],
        [*_BASE, (b":path", b"/")],
        [*_BASE, (b":scheme", b"https")],
        [*_BASE, (b":protocol", b"websocket")],
        [*_BASE, _BASE[1]],
        [_BASE[0], (b"x", b"y"), _BASE[1]],
        [*_BASE, (b"connection", b"close")],
        [*_BASE, (b"transfer-encoding", b"chunked")],
    ],
)
def test_what_is_not_an_ordinary_connect(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(RemoteProtocolError):
        check_connect(headers)


def test_malformed_telemetry_reads_as_empty() -> None:
    headers = [*_BASE, (b"baggage", b"\xff=1"), (b"forwarded", b"for"), (b"traceparent", b"00-0")]
    assert parse_connect(headers) == ConnectRequest(authority=parse_authority(b"10.0.0.1:80"))


def test_baggage_is_read_tolerantly() -> None:
    baggage = parse_baggage(b" k8s.job.name = sum ;meta=1, junk,, service.name=web,service.name=x")
    assert baggage == Baggage(workload_kind="job", workload="sum", service="web")
    assert parse_baggage(b"service.name=" + b"a" * 5000) == Baggage()


@pytest.mark.parametrize(
    ("value", "forwarded"),
    [
        (b'for="[fd00::1]:80"', Forwarded(source="[fd00::1]:80")),
        (b"Host=web ; for=10.0.0.1, for=evil", Forwarded(source="10.0.0.1", host="web")),
        (b'for="a\\"b"', Forwarded()),
    ],
)
def test_forwarded(value: bytes, forwarded: Forwarded) -> None:
    assert parse_forwarded(value) == forwarded


@pytest.mark.parametrize(
    "value",
    [b"", b"00-" + b"0" * 32 + b"-" + b"1" * 16 + b"-00", b"01-" + b"1" * 32 + b"-" + b"1" * 16],
)
def test_unusable_traceparent(value: bytes) -> None:
    assert parse_traceparent(value) == ""


def test_response() -> None:
    baggage = Baggage(namespace="shop")
    headers = [(b":status", b"200"), *build_response_headers(baggage)]
    response = parse_response(headers)
    assert (response.status, response.baggage) == (200, baggage)
    assert build_response_headers(Baggage()) == []
    with pytest.raises(RemoteProtocolError):
        parse_response([(b":status", b"2x0")])


def test_statuses_are_described() -> None:
    assert "authorization" in describe_status(401)
    assert "418" in describe_status(418)
