"""Answers the proxy gives by itself."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import quote

from mesh.http1.message import Framing, Headers, RequestHead, ResponseHead
from mesh.http1.writer import format_response

# gRPC's mapping of HTTP statuses (grpc/doc/http-grpc-status-mapping.md).
_GRPC_OF_HTTP = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
_GRPC_UNKNOWN = 2
_TEXT = (b"content-type", b"text/plain")


def is_grpc(head: RequestHead) -> bool:
    """Whether a request is a gRPC call: `application/grpc`, with or without a suffix."""
    for name, value in head.headers:
        if name == b"content-type":
            return value == b"application/grpc" or value.startswith(
                (b"application/grpc+", b"application/grpc;")
            )
    return False


def reply(
    status: int, text: str, *, grpc: bool, is_head: bool = False, headers: Headers | None = None
) -> tuple[ResponseHead, bytes]:
    """A response's head and body; for gRPC, trailers-only with HTTP status 200.

    `headers` may say already what a gRPC client is told (routing knows better than a status does).
    """
    if grpc and headers and any(name == b"grpc-status" for name, _ in headers):
        return _trailers_only(headers), b""
    if grpc:
        return _grpc_reply(status, text), b""
    # An authorizer's text may hold bytes of any kind.
    body = text.encode(errors="surrogateescape")
    own = list(headers or [])
    if body and not any(name == b"content-type" for name, _ in own):
        own.insert(0, _TEXT)
    bodiless = is_head or status in (204, 304)
    head = ResponseHead(
        status=status,
        headers=own,
        minor=1,
        framing=Framing.NONE if bodiless or not body else Framing.LENGTH,
        length=None if status in (204, 304) else len(body),
        keep_alive=True,
    )
    return head, b"" if bodiless else body


def _grpc_reply(status: int, text: str) -> ResponseHead:
    code = _GRPC_OF_HTTP.get(status, _GRPC_UNKNOWN)
    said = text.encode(errors="replace")
    message = quote(said, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~").encode("ascii")
    headers = [
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % code),
        (b"grpc-message", message),
    ]
    return _trailers_only(headers)


def _trailers_only(headers: Headers) -> ResponseHead:
    return ResponseHead(
        status=200, headers=headers, minor=1, framing=Framing.NONE, length=None, keep_alive=True
    )


def error_page(status: int) -> bytes:
    """A whole HTTP/1.1 response that ends its connection."""
    text = HTTPStatus(status).phrase.encode("ascii")
    head = format_response(status, [_TEXT], Framing.LENGTH, len(text), keep_alive=False)
    return head + text
