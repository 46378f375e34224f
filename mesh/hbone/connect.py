"""Build and read the CONNECT request of an HBONE stream, and its response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mesh.errors import RemoteProtocolError
from mesh.hbone.authority import Authority, parse_authority
from mesh.hbone.telemetry_headers import (
    Baggage,
    Forwarded,
    format_baggage,
    format_forwarded,
    parse_baggage,
    parse_forwarded,
    parse_traceparent,
)

Headers = Sequence[tuple[bytes, bytes]]

_EMPTY_BAGGAGE = Baggage()
_EMPTY_FORWARDED = Forwarded()
# RFC 9113 §8.2.2: connection-specific fields make a message malformed.
_FORBIDDEN = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)


_MEANING = {
    200: "the tunnel is up",
    400: "the request is not a CONNECT to an address of this workload",
    401: "denied by the destination's authorization policy",
    503: "the destination's application could not be reached",
}


def describe_status(status: int) -> str:
    """What a status means, for people."""
    return _MEANING.get(status, f"unexpected status {status}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectRequest:
    """One CONNECT. Everything but `authority` is untrusted telemetry.

    Attributes:
        traceparent: W3C form, or empty.
    """

    authority: Authority
    baggage: Baggage = _EMPTY_BAGGAGE
    forwarded: Forwarded = _EMPTY_FORWARDED
    traceparent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectResponse:
    status: int
    baggage: Baggage = _EMPTY_BAGGAGE


def build_connect(request: ConnectRequest) -> list[tuple[bytes, bytes]]:
    """Headers of the request; empty telemetry headers are left out."""
    headers = [(b":method", b"CONNECT"), (b":authority", str(request.authority).encode("ascii"))]
    optional = (
        (b"baggage", format_baggage(request.baggage)),
        (b"forwarded", format_forwarded(request.forwarded)),
        (b"traceparent", request.traceparent.encode("ascii")),
    )
    headers.extend(field for field in optional if field[1])
    return headers


def check_connect(headers: Headers) -> bytes:
    """Return the authority of an ordinary CONNECT (RFC 9113 §8.5).

    Raises `RemoteProtocolError` for every other request: the answer is then 400.
    """
    pseudo: dict[bytes, bytes] = {}
    regular_seen = False
    for name, value in headers:
        if name.startswith(b":"):
            if regular_seen or name in pseudo:
                raise RemoteProtocolError(f"pseudo-header {name!r} is repeated or misplaced")
            pseudo[name] = value
        else:
            regular_seen = True
            if name in _FORBIDDEN:
                raise RemoteProtocolError(f"header {name!r} is forbidden in HTTP/2")
    if pseudo.get(b":method") != b"CONNECT":
        raise RemoteProtocolError(f"method {pseudo.get(b':method', b'')[:32]!r} is not CONNECT")
    if pseudo.keys() != {b":method", b":authority"}:
        extra = sorted(pseudo.keys() - {b":method", b":authority"})
        raise RemoteProtocolError(
            f"CONNECT with {extra}" if extra else "CONNECT without :authority"
        )
    return pseudo[b":authority"]


def parse_connect(headers: Headers) -> ConnectRequest:
    """Read a CONNECT request; raise `RemoteProtocolError` if method or authority are unusable."""
    authority = parse_authority(check_connect(headers))
    return ConnectRequest(
        authority=authority,
        baggage=parse_baggage(_first(headers, b"baggage")),
        forwarded=parse_forwarded(_first(headers, b"forwarded")),
        traceparent=parse_traceparent(_first(headers, b"traceparent")),
    )


def build_response_headers(baggage: Baggage) -> list[tuple[bytes, bytes]]:
    """Headers to send along with `:status 200`."""
    value = format_baggage(baggage)
    return [(b"baggage", value)] if value else []


def parse_status(headers: Headers) -> int:
    """`:status` of a response; raise `RemoteProtocolError` if there is none (RFC 9113 §8.3.2)."""
    value = _first(headers, b":status")
    if len(value) != 3 or not value.isdigit():
        raise RemoteProtocolError(f"a response with :status {value[:16]!r}")
    return int(value)


def parse_response(headers: Headers) -> ConnectResponse:
    """Read a response; raise `RemoteProtocolError` if it has no status."""
    return ConnectResponse(
        status=parse_status(headers), baggage=parse_baggage(_first(headers, b"baggage"))
    )


def _first(headers: Headers, name: bytes) -> bytes:
    return next((value for key, value in headers if key == name), b"")
