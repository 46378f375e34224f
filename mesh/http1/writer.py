"""Heads as bytes. Values were checked when they were read or are our own; a field that could end
its line is refused all the same, since one may also come from HTTP/2 or from a policy object."""

from __future__ import annotations

from http import HTTPStatus

from mesh.errors import LocalProtocolError
from mesh.http1.grammar import TEXT
from mesh.http1.message import CONNECT, Framing, Headers

_REASONS = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}


def format_request(
    method: bytes,
    target: bytes,
    host: bytes,
    headers: Headers,
    framing: Framing,
    length: int | None,
    *,
    upgrade: bytes = b"",
    takes_trailers: bool = False,
) -> bytes:
    """A request's head. Raises `LocalProtocolError` for what can't be written in HTTP/1.1."""
    if upgrade == CONNECT:
        options: Headers = []
    elif upgrade:
        options = [(b"connection", b"upgrade"), (b"upgrade", upgrade)]
    elif takes_trailers:
        options = [(b"connection", b"te"), (b"te", b"trailers")]
    else:
        options = []
    fields = [(b"host", host), *headers, *_framing(framing, length), *options]
    return _block(b"%b %b HTTP/1.1" % (method, target), fields)


def format_response(
    status: int,
    headers: Headers,
    framing: Framing,
    length: int | None,
    *,
    keep_alive: bool,
    upgrade: bytes = b"",
) -> bytes:
    """A response's head; informational ones too. Raises `LocalProtocolError`."""
    if upgrade == CONNECT:
        fields = headers
    elif upgrade:
        fields = [*headers, (b"connection", b"upgrade"), (b"upgrade", upgrade)]
    elif status < 200:
        fields = headers
    elif keep_alive:
        fields = [*headers, *_framing(framing, length)]
    else:
        fields = [*headers, *_framing(framing, length), (b"connection", b"close")]
    return _block(b"HTTP/1.1 %d %b" % (status, _REASONS.get(status, b"")), fields)


def _framing(framing: Framing, length: int | None) -> Headers:
    if framing is Framing.CHUNKED:
        return [(b"transfer-encoding", b"chunked")]
    if length is not None:
        return [(b"content-length", b"%d" % length)]
    return []


def _block(first: bytes, fields: Headers) -> bytes:
    """First line, fields and the empty line, each of them one line and no more."""
    head = first + b"\r\n" + b"".join([b"%b: %b\r\n" % item for item in fields]) + b"\r\n"
    if len(head.translate(None, TEXT)) != 2 * (len(fields) + 2) or head.count(b"\r\n") != (
        len(fields) + 2
    ):
        raise LocalProtocolError("a field that HTTP/1.1 cannot carry")
    return head
