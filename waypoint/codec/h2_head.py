"""Heads between HTTP/2 fields and the version-neutral form (RFC 9113 §8.2, §8.3). Pure.

The session refused malformed fields already: upper case, connection-specific ones, pseudo-headers
out of order or twice, a content-length that disagrees with the payload.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1

from mesh.http1.grammar import check_host, parse_length
from mesh.http1.head import check_authority
from mesh.http1.message import CONNECT, Framing, Headers, MessageError, RequestHead, ResponseHead
from mesh.http2.contract import Headers as Fields

WEBSOCKET = b"websocket"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_SCHEME = (b":scheme", b"http")


def read_request(fields: Fields, end_stream: bool, max_fields: int) -> RequestHead:
    """Read a request. Raises `MessageError`."""
    if len(fields) > max_fields:
        raise MessageError(431, "http2.too_many_fields", f"more than {max_fields} fields")
    pseudo: dict[bytes, bytes] = {}
    headers: Headers = []
    cookies: list[bytes] = []
    hosts: list[bytes] = []
    lengths: list[bytes] = []
    trailers = False
    for name, value in fields:
        if name[:1] == b":":
            pseudo[name] = value
        elif name == b"cookie":
            cookies.append(value)
        elif name == b"host":
            hosts.append(value)
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"te":
            trailers = True  # the session lets only `trailers` pass
        elif name != b"expect":
            headers.append((name, value))
    if cookies:  # RFC 9113 §8.2.3
        headers.append((b"cookie", b"; ".join(cookies)))
    length = parse_length(lengths) if lengths else None
    body = Framing.CHUNKED if length is None else Framing.LENGTH
    upgrade = b""
    if b":protocol" in pseudo:
        upgrade = _protocol(pseudo)
        pseudo[b":method"] = b"GET"
        end_stream, length = True, None  # for now: what follows belongs to the other protocol
    elif pseudo.get(b":method") == CONNECT:
        return _tunnel(_authority(pseudo.get(b":authority", b""), hosts), headers)
    return RequestHead(
        method=_method(pseudo),
        target=_path(pseudo.get(b":path", b"")),
        host=_authority(pseudo.get(b":authority", b""), hosts),
        headers=headers,
        minor=1,
        framing=Framing.NONE if end_stream else body,
        length=length,
        keep_alive=True,
        upgrade=upgrade,
        takes_trailers=trailers,
    )


def _tunnel(authority: bytes, headers: Headers) -> RequestHead:
    """RFC 9113 §8.5: a CONNECT has neither path nor scheme; what follows is the tunnel's."""
    return RequestHead(
        method=CONNECT,
        target=check_authority(authority),
        host=authority,
        headers=headers,
        minor=1,
        framing=Framing.NONE,
        length=None,
        keep_alive=True,
        upgrade=CONNECT,
    )


def _protocol(pseudo: dict[bytes, bytes]) -> bytes:
    """RFC 8441 §4: an extended CONNECT asks for what HTTP/1.1 calls an upgrade."""
    protocol = pseudo[b":protocol"].lower()
    if protocol != WEBSOCKET:
        raise MessageError(501, "http2.unknown_protocol", f"protocol {protocol[:32]!r}")
    return protocol


def _method(pseudo: dict[bytes, bytes]) -> bytes:
    method = pseudo.get(b":method", b"")
    if method != method.upper():
        raise MessageError(400, "http2.bad_method", f"method {method[:32]!r} is not upper case")
    return method


def _path(path: bytes) -> bytes:
    # What HTTP/1.1 could read as the end of its request line must not come from here.
    if not path.isascii() or any(byte in path for byte in b" \t#\r\n\0"):
        raise MessageError(400, "http2.bad_path", f"path {path[:64]!r}")
    if not path.startswith(b"/") and path != b"*":
        raise MessageError(400, "http2.bad_path", f"path {path[:64]!r}")
    return path


def _authority(authority: bytes, hosts: list[bytes]) -> bytes:
    """RFC 9113 §8.3.1: Host and :authority must not disagree."""
    if len(hosts) > 1 or (authority and hosts and hosts[0].lower() != authority.lower()):
        raise MessageError(400, "http2.host_mismatch", "host and :authority disagree")
    value = authority or (hosts[0] if hosts else b"")
    if not value:
        raise MessageError(400, "http2.no_host", ":authority is missing")
    return check_host(value)


def request_fields(head: RequestHead) -> list[tuple[bytes, bytes]]:
    """A request for an HTTP/2 server."""
    if head.upgrade == CONNECT:
        return [(b":method", CONNECT), (b":authority", head.target), *head.headers]
    if head.upgrade:  # RFC 8441 §5: the key exchange is HTTP/1.1's
        return [
            (b":method", CONNECT),
            (b":protocol", head.upgrade),
            _SCHEME,
            (b":authority", head.host),
            (b":path", head.target),
            *(item for item in head.headers if item[0] != b"sec-websocket-key"),
        ]
    fields = [
        (b":method", head.method),
        _SCHEME,
        (b":authority", head.host),
        (b":path", head.target),
        *head.headers,
    ]
    if head.length is not None:
        fields.append((b"content-length", b"%d" % head.length))
    if head.takes_trailers:
        fields.append((b"te", b"trailers"))
    return fields


def read_response(
    fields: Fields, end_stream: bool, *, is_head: bool, upgrade: bytes = b""
) -> ResponseHead:
    """Read a response. Raises `MessageError` with status 502."""
    status = 0
    headers: Headers = []
    lengths: list[bytes] = []
    for name, value in fields:
        if name == b":status":
            status = int(value) if len(value) == 3 and value.isdigit() else 0
        elif name == b"content-length":
            lengths.append(value)
        else:
            headers.append((name, value))
    if status < 100 or status == 101:
        raise MessageError(502, "http2.bad_status", f"status {status}")
    if upgrade and 200 <= status < 300:
        return ResponseHead(
            status=status,
            headers=headers,
            minor=1,
            framing=Framing.RAW,
            length=None,
            keep_alive=True,
            upgrade=upgrade,
        )
    length = parse_length(lengths) if lengths else None
    if end_stream or is_head or status in (204, 304) or status < 200:
        framing = Framing.NONE
    else:
        framing = Framing.CHUNKED if length is None else Framing.LENGTH
    if framing is Framing.NONE and not is_head and status != 304:
        length = None if status in (204,) or status < 200 else length or 0
    return ResponseHead(
        status=status, headers=headers, minor=1, framing=framing, length=length, keep_alive=True
    )


def switched(head: ResponseHead, request: RequestHead) -> ResponseHead:
    """How HTTP/1.1 says what a 2xx to a WebSocket's extended CONNECT says (RFC 6455 §4.2.2)."""
    key = next((value for name, value in request.headers if name == b"sec-websocket-key"), b"")
    accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    head.status = 101
    head.headers = [*head.headers, (b"sec-websocket-accept", accept)]
    return head


def response_fields(head: ResponseHead) -> list[tuple[bytes, bytes]]:
    """A response for an HTTP/2 client."""
    fields = [(b":status", b"%d" % head.status), *head.headers]
    if head.length is not None:
        fields.append((b"content-length", b"%d" % head.length))
    return fields
