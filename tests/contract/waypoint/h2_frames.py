"""Frames by hand (RFC 9113 §4, §6), so that wrong ones can be said as well."""

from __future__ import annotations

from tests.support.raw_h2 import PREFACE, frame, literal

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
ACK, END_STREAM, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x1, 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL, INTERNAL, FLOW_CONTROL, TIMEOUT, CLOSED = 0, 1, 2, 3, 4, 5
FRAME_SIZE, REFUSED, CANCEL, COMPRESSION, CONNECT, CALM = 6, 7, 8, 9, 10, 11
MARK = b"are you?"

Fields = tuple[tuple[bytes, bytes], ...]
GET: Fields = (
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/"),
    (b":authority", b"web"),
)
POST: Fields = ((b":method", b"POST"), *GET[1:])


def block(fields: Fields = GET) -> bytes:
    """A header block of plain literals."""
    return b"".join(literal(name, value) for name, value in fields)


def headers(
    stream: int = 1, fields: Fields = GET, *, end: bool = True, flags: int = END_HEADERS
) -> bytes:
    return frame(HEADERS, block(fields), flags=flags | (END_STREAM if end else 0), stream=stream)


def raw_headers(payload: bytes, *, flags: int = END_HEADERS | END_STREAM, stream: int = 1) -> bytes:
    return frame(HEADERS, payload, flags=flags, stream=stream)


def data(payload: bytes = b"x", stream: int = 1, *, end: bool = True, flags: int = 0) -> bytes:
    return frame(DATA, payload, flags=flags | (END_STREAM if end else 0), stream=stream)


def padded(payload: bytes, count: int) -> bytes:
    """Payload of a padded frame, with a count that may be a lie."""
    return bytes((count,)) + payload + bytes(min(count, 8))


def priority(stream: int, on: int = 0, weight: int = 15, *, exclusive: bool = False) -> bytes:
    first = on | (0x8000_0000 if exclusive else 0)
    return frame(PRIORITY, first.to_bytes(4, "big") + bytes((weight,)), stream=stream)


def rst(stream: int = 1, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, code.to_bytes(4, "big"), stream=stream)


def settings(*items: tuple[int, int]) -> bytes:
    pairs = (key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in items)
    return frame(SETTINGS, b"".join(pairs))


def window(by: int, stream: int = 0) -> bytes:
    return frame(WINDOW_UPDATE, by.to_bytes(4, "big"), stream=stream)


def continuation(payload: bytes, stream: int = 1, *, last: bool = True) -> bytes:
    return frame(CONTINUATION, payload, flags=END_HEADERS if last else 0, stream=stream)


def goaway(code: int = 0, stream: int = 0) -> bytes:
    return frame(GOAWAY, bytes(4) + code.to_bytes(4, "big"), stream=stream)


def ping(payload: bytes = MARK, *, flags: int = 0, stream: int = 0) -> bytes:
    return frame(PING, payload, flags=flags, stream=stream)


HELLO = PREFACE + settings() + frame(SETTINGS, flags=ACK)
"""What a client says first; the acknowledgement is of the settings that a server sends at once."""
