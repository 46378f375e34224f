"""Which header fields change on the way: identity, forwarding, request id. Pure.

Connection-specific fields are gone already (`mesh.http1.head`, and HTTP/2 has none).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from mesh.http1.message import Headers, RequestHead
from mesh.model.identity import SpiffeId
from mesh.telemetry.trace_context import TRACE_FIELDS, Trace, TraceStarter

# What says who the caller is comes from the tunnel alone, and what a proxy tells the application
# (that a request is internal, how often it was tried) from the proxy: a client's own claims are
# dropped. The names are ours, Envoy's, Istio's and Linkerd's, which applications know.
_CLAIMS = (
    *("x-forwarded-client-cert", "x-meshnode-principal", "x-client-cert", "ssl-client-cert"),
    *("x-ssl-client-cert", "x-ssl-client-verify", "x-ssl-client-subject-dn"),
    *("x-envoy-internal", "x-envoy-external-address", "x-envoy-peer-metadata"),
    *("x-envoy-peer-metadata-id", "x-envoy-downstream-service-cluster"),
    *("x-envoy-downstream-service-node", "x-envoy-original-path", "x-envoy-original-host"),
    *("x-envoy-original-url", "x-envoy-attempt-count", "x-envoy-is-timeout-retry"),
    *("x-envoy-expected-rq-timeout-ms", "x-envoy-decorator-operation", "x-envoy-ip-tags"),
    *("x-istio-attributes", "l5d-client-id", "l5d-dst-canonical", "l5d-dst-override"),
    *("l5d-proxy-connection", "l5d-proxy-error", "l5d-reqid", "l5d-sample"),
)


def _spellings(name: str) -> list[str]:
    """A name with every mix of hyphens and underscores: many applications (CGI, WSGI) take both
    for the same header."""
    first, *rest = name.split("-")
    mixes = [[first]]
    for word in rest:
        mixes = [[*mix, sign, word] for mix in mixes for sign in "-_"]
    return ["".join(mix) for mix in mixes]


IDENTITY_FIELDS = frozenset(
    spelling.encode("ascii") for name in _CLAIMS for spelling in _spellings(name)
)
_REQUEST_ID = re.compile(rb"[0-9A-Za-z._:/+=@-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerFields:
    """Fields that are the same for every request of a connection.

    Attributes:
        identity: `x-forwarded-client-cert` of the verified caller; empty without one.
        address: of the caller, for `x-forwarded-for`.
    """

    identity: Headers
    address: bytes


def caller_fields(caller: SpiffeId | None, own: SpiffeId | None, address: str) -> CallerFields:
    """Fields for a caller; Envoy's form of XFCC with By and URI."""
    identity: Headers = []
    if caller is not None:
        by = f"By={own};" if own is not None else ""
        identity.append((b"x-forwarded-client-cert", f"{by}URI={caller}".encode("ascii")))
    return CallerFields(identity=identity, address=address.encode("ascii"))


@dataclass(slots=True)
class Seen:
    """What logs want to know of a request's own fields."""

    request_id: bytes = b""
    user_agent: bytes = b""
    forwarded_for: bytes = b""
    is_grpc: bool = False
    trace: Trace | None = None
    """The span to make of the request, if one is."""
    asked: tuple[bytes, bytes, Headers] | None = None
    """Target, host and headers as they are judged, before anything else edits them."""


def prepare_request(
    head: RequestHead, caller: CallerFields, random: Random, traces: TraceStarter | None = None
) -> Seen:
    """Replace identity fields, extend `x-forwarded-for`, settle `x-request-id`, follow the trace;
    in place."""
    seen = Seen()
    context: Headers = []
    kept: Headers = []
    for item in head.headers:
        name, value = item
        if name in _TOUCHED:
            if name == b"x-forwarded-for":
                seen.forwarded_for += b", " + value if seen.forwarded_for else value
                continue
            if name == b"x-request-id":
                if not seen.request_id and _REQUEST_ID.fullmatch(value):
                    seen.request_id = value
                continue
            if name in IDENTITY_FIELDS:
                continue
            if traces is not None and name in TRACE_FIELDS:
                context.append(item)
                continue
            if name == b"user-agent":
                seen.user_agent = value
            elif name == b"content-type" and value.startswith(b"application/grpc"):
                seen.is_grpc = value == b"application/grpc" or value[16:17] in (b"+", b";")
        kept.append(item)
    before = seen.forwarded_for
    chain = seen.forwarded_for = before + b", " + caller.address if before else caller.address
    if not seen.request_id:
        seen.request_id = new_request_id(random)
    kept.append((b"x-forwarded-for", chain))
    kept.append((b"x-request-id", seen.request_id))
    if traces is not None:
        seen.trace = traces.follow(context, kept)
    kept += caller.identity
    head.headers = kept
    seen.asked = (head.target, head.host, kept)
    return seen


_TOUCHED = (
    IDENTITY_FIELDS
    | TRACE_FIELDS
    | {b"x-forwarded-for", b"x-request-id", b"user-agent", b"content-type"}
)


def passed_trailers(trailers: Headers) -> Headers:
    """Leave out of a request's trailers what its head must not claim either: many servers merge
    both (RFC 9110 §6.5.1)."""
    return [item for item in trailers if item[0] not in _TOUCHED]


def new_request_id(random: Random) -> bytes:
    """A UUID of version 4 (RFC 9562 §5.4)."""
    text = f"{random.getrandbits(128):032x}"
    variant = "89ab"[int(text[16], 16) & 3]
    parts = (text[:8], text[8:12], "4" + text[13:16], variant + text[17:20], text[20:])
    return "-".join(parts).encode("ascii")
