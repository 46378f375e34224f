# ruff: noqa: E501 - a table reads best with one case a line
"""What an HTTP/2 server must do with frames, right ones and wrong ones (RFC 9113, RFC 7541)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from hpack import Encoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from tests.contract.waypoint import h2_frames as f
from tests.support.raw_h2 import frame, literal


class Kind(Enum):
    """What comes of the frames of a case."""

    ANSWERED = auto()
    """Stream 1 gets a whole response, and the connection goes on."""
    LIVES = auto()
    """The connection goes on; the stream, if there is one, is not reset."""
    STREAM = auto()
    """A stream is reset, and the connection goes on."""
    CONNECTION = auto()
    """GOAWAY, and the connection ends."""
    OVER = auto()
    """The connection ends, with or without a GOAWAY."""


@dataclass(frozen=True, slots=True)
class Case:
    section: str
    what: str
    kind: Kind
    frames: bytes
    codes: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.section} {self.what}"


def _answered(section: str, what: str, frames: bytes) -> Case:
    return Case(section, what, Kind.ANSWERED, frames)


def _lives(section: str, what: str, frames: bytes) -> Case:
    return Case(section, what, Kind.LIVES, frames)


def _stream(section: str, what: str, frames: bytes, *codes: int) -> Case:
    return Case(section, what, Kind.STREAM, frames, codes or (f.PROTOCOL,))


def _fatal(section: str, what: str, frames: bytes, *codes: int) -> Case:
    return Case(section, what, Kind.CONNECTION, frames, codes or (f.PROTOCOL,))


def _huffman(name: bytes, value: bytes) -> bytes:
    """A literal whose strings are Huffman-coded."""
    coder = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
    parts = [coder.encode(name), coder.encode(value)]
    return b"\0" + b"".join(bytes((0x80 | len(part),)) + part for part in parts)


_OPEN = f.headers(fields=f.POST, end=False)
_BEGUN = f.headers(flags=0)
_MORE = (b"x-more", b"1")
_TABLE = f.raw_headers
_LITERALS = b"\x82\x86\x84\x41\x03web"  # GET, http, / by index; :authority by an indexed name

SOUND = (
    _answered("3.4", "a GET after the preface", f.headers()),
    _answered("5.1", "WINDOW_UPDATE on a half-closed stream", f.headers() + f.window(100, 1)),
    _answered("5.1", "PRIORITY on a half-closed stream", f.headers() + f.priority(1)),
    _lives("5.1", "RST_STREAM on a half-closed stream", f.headers() + f.rst()),
    _lives("5.1", "PRIORITY on a closed stream", f.headers() + f.rst() + f.priority(1)),
    _answered("6.1", "DATA", _OPEN + f.data(b"test")),
    _answered("6.1", "several DATA frames", _OPEN + f.data(b"te", end=False) + f.data(b"st")),
    _answered("6.1", "padded DATA", _OPEN + f.data(f.padded(b"test", 6), flags=f.PADDED)),
    _answered("6.1", "empty DATA that ends the stream", _OPEN + f.data(b"")),
    _answered(
        "6.2",
        "padded HEADERS",
        _TABLE(f.padded(f.block(), 5), flags=f.PADDED | f.END_HEADERS | f.END_STREAM),
    ),
    _answered(
        "6.2",
        "HEADERS with priority",
        _TABLE(bytes(4) + b"\x0f" + f.block(), flags=f.PRIORITISED | f.END_HEADERS | f.END_STREAM),
    ),
    _answered(
        "6.3", "PRIORITY of weight 1 on an idle stream", f.priority(1, weight=0) + f.headers()
    ),
    _answered("6.3", "PRIORITY of weight 256", f.priority(1, weight=255) + f.headers()),
    _answered("6.3", "PRIORITY that depends on another", f.priority(3, 1) + f.headers()),
    _answered("6.3", "exclusive PRIORITY", f.priority(3, 1, exclusive=True) + f.headers()),
    _answered("6.3", "PRIORITY of a higher stream first", f.priority(9) + f.headers()),
    _lives("6.4", "RST_STREAM", _OPEN + f.rst()),
    _lives("6.4", "RST_STREAM of an unknown code", _OPEN + f.rst(code=0xFF)),
    _lives("6.5", "SETTINGS", f.settings((3, 10))),
    _lives("6.5", "SETTINGS without anything", f.settings()),
    _lives("6.5.2", "an unknown setting", f.settings((0xFF, 1))),
    _lives("6.5.3", "a setting twice", f.settings((4, 100), (4, 200))),
    _lives("6.7", "PING", b""),
    _lives("6.7", "PING that acknowledges nothing", f.ping(b"unasked!", flags=f.ACK)),
    Case("6.8", "GOAWAY ends an idle connection", Kind.OVER, f.goaway()),
    Case("6.8", "GOAWAY of an unknown code", Kind.OVER, f.goaway(0xFF)),
    _answered("6.9", "WINDOW_UPDATE of the connection", f.window(1) + f.headers()),
    _answered("6.9", "WINDOW_UPDATE of a stream", _OPEN + f.window(1, 1) + f.data()),
    _answered(
        "6.10",
        "CONTINUATION",
        f.headers(flags=0, fields=f.GET[:2]) + f.continuation(f.block(f.GET[2:])),
    ),
    _answered(
        "6.10",
        "several CONTINUATIONs",
        f.headers(flags=0, fields=f.GET[:1])
        + f.continuation(f.block(f.GET[1:3]), last=False)
        + f.continuation(f.block(f.GET[3:])),
    ),
    _answered("6.10", "an empty CONTINUATION", f.headers(flags=0) + f.continuation(b"")),
    _answered("8.1", "HEAD", f.headers(fields=((b":method", b"HEAD"), *f.GET[1:]))),
    _answered("8.1", "trailers", _OPEN + f.data(end=False) + f.headers(fields=(_MORE,))),
    _answered(
        "8.2.3",
        "a cookie in crumbs",
        f.headers(fields=(*f.GET, (b"cookie", b"a=1"), (b"cookie", b"b=2"))),
    ),
    _answered("8.2.2", "te: trailers", f.headers(fields=(*f.GET, (b"te", b"trailers")))),
    _answered(
        "8.3.1", "host that agrees with :authority", f.headers(fields=(*f.GET, (b"host", b"web")))
    ),
    _answered(
        "8.3.1", "host without :authority", f.headers(fields=(*f.GET[:3], (b"host", b"web")))
    ),
    _lives("4.1", "a frame of an unknown type", frame(0xF0, b"whatever")),
    _lives("4.1", "a flag that is not defined", frame(f.PING, f.MARK, flags=0x16)),
    _lives("4.1", "the reserved bit", b"\0\0\x08\6\0\x80\0\0\0" + f.MARK),
    _answered("4.2", "DATA of 2^14 octets", _OPEN + f.data(bytes(16384))),
    _lives("5.5", "a frame of an unknown type on a stream", _OPEN + frame(0x20, b"x", stream=1)),
    _answered("7541 6.1", "indexed fields", _TABLE(_LITERALS)),
    _answered(
        "7541 6.2.1", "a literal that is indexed, old name", _TABLE(_LITERALS + b"\x7a\x04test")
    ),
    _answered(
        "7541 6.2.1",
        "a literal that is indexed, new name",
        _TABLE(_LITERALS + b"\x40\x04name\x01v\xbe"),
    ),
    _answered(
        "7541 6.2.2",
        "a literal that is not indexed, old name",
        _TABLE(_LITERALS + b"\x0f\x2b\x04test"),
    ),
    _answered(
        "7541 6.2.2",
        "a literal that is not indexed, new name",
        _TABLE(_LITERALS + literal(b"name", b"v")),
    ),
    _answered(
        "7541 6.2.3", "a literal never indexed, old name", _TABLE(_LITERALS + b"\x1f\x2b\x04test")
    ),
    _answered(
        "7541 6.2.3", "a literal never indexed, new name", _TABLE(_LITERALS + b"\x10\x04name\x01v")
    ),
    _answered("7541 5.2", "Huffman-coded strings", _TABLE(_LITERALS + _huffman(b"name", b"value"))),
    _answered("7541 6.3", "a smaller table", _TABLE(b"\x20" + _LITERALS)),
    _answered("7541 6.3", "two changes of the table", _TABLE(b"\x20\x3f\xe1\x1f" + _LITERALS)),
    _answered(
        "7541 2.3",
        "an encoder with state",
        _TABLE(Encoder().encode([*f.GET, (b"a", b"b"), (b"a", b"b")])),
    ),
)

WRONG_FRAMES = (
    Case("3.4", "a preface that is none", Kind.OVER, b""),
    _fatal(
        "4.2",
        "DATA longer than SETTINGS_MAX_FRAME_SIZE",
        _OPEN + f.data(bytes(65537)),
        f.FRAME_SIZE,
    ),
    _fatal(
        "4.2",
        "HEADERS longer than SETTINGS_MAX_FRAME_SIZE",
        _TABLE(f.block() + literal(b"a", bytes(65536))),
        f.FRAME_SIZE,
    ),
    _fatal("4.3", "a broken header block", _TABLE(b"\x40"), f.COMPRESSION),
    _fatal("4.3", "PRIORITY inside a header block", _BEGUN + f.priority(1) + f.continuation(b"")),
    _fatal("4.3", "HEADERS of another stream inside a header block", _BEGUN + f.headers(3)),
    _fatal("5.1", "idle: DATA", f.data()),
    _fatal("5.1", "idle: RST_STREAM", f.rst()),
    _fatal("5.1", "idle: WINDOW_UPDATE", f.window(100, 1)),
    _fatal("5.1", "idle: CONTINUATION", f.continuation(f.block())),
    _fatal("5.1", "half-closed: DATA", f.headers() + f.data(), f.CLOSED),
    _fatal("5.1", "half-closed: HEADERS", f.headers() + f.headers(), f.CLOSED),
    _fatal("5.1", "half-closed: CONTINUATION", f.headers() + f.continuation(b"")),
    _lives("5.1", "closed: DATA after RST_STREAM may be ignored", _OPEN + f.rst() + f.data()),
    _fatal(
        "5.1",
        "closed: HEADERS after RST_STREAM",
        f.headers(end=False, fields=f.POST) + f.rst() + f.headers(),
        f.CLOSED,
    ),
    _fatal("5.1", "closed: CONTINUATION after RST_STREAM", _OPEN + f.rst() + f.continuation(b"")),
    _fatal("5.1.1", "an even stream", f.headers(2)),
    _fatal("5.1.1", "a smaller stream", f.headers(5) + f.headers(3)),
    _fatal(
        "5.1.1", "a smaller stream after one that ended", f.headers(5) + f.rst(5) + f.headers(3)
    ),
    _fatal("5.4.1", "a connection error closes the connection", f.ping(b"short"), f.FRAME_SIZE),
    _fatal(
        "5.5",
        "an unknown frame inside a header block",
        _BEGUN + frame(0xF0, b"") + f.continuation(b""),
    ),
    _fatal("6.1", "DATA on stream 0", frame(f.DATA, b"x")),
    _fatal("6.1", "DATA with more padding than frame", _OPEN + f.data(b"\x40x", flags=f.PADDED)),
    _fatal("6.2", "HEADERS on stream 0", f.headers(0)),
    _fatal(
        "6.2",
        "HEADERS with more padding than frame",
        _TABLE(b"\xff" + f.block(), flags=f.PADDED | f.END_HEADERS),
    ),
    _fatal("6.3", "PRIORITY on stream 0", f.priority(0)),
    Case(
        "6.3",
        "PRIORITY of four octets",
        Kind.CONNECTION,
        frame(f.PRIORITY, bytes(4), stream=1),
        (f.FRAME_SIZE,),
    ),
    _fatal("6.4", "RST_STREAM on stream 0", f.rst(0)),
    _fatal(
        "6.4",
        "RST_STREAM of three octets",
        _OPEN + frame(f.RST_STREAM, bytes(3), stream=1),
        f.FRAME_SIZE,
    ),
    _fatal(
        "6.5",
        "SETTINGS that acknowledge and say something",
        frame(f.SETTINGS, bytes(6), flags=f.ACK),
        f.FRAME_SIZE,
    ),
    _fatal("6.5", "SETTINGS on a stream", frame(f.SETTINGS, bytes(6), stream=1)),
    _fatal("6.5", "SETTINGS of three octets", frame(f.SETTINGS, bytes(3)), f.FRAME_SIZE),
    _fatal("6.5.2", "ENABLE_PUSH neither 0 nor 1", f.settings((2, 2))),
    _fatal("6.5.2", "INITIAL_WINDOW_SIZE above 2^31-1", f.settings((4, 1 << 31)), f.FLOW_CONTROL),
    _fatal("6.5.2", "MAX_FRAME_SIZE below 2^14", f.settings((5, 16383))),
    _fatal("6.5.2", "MAX_FRAME_SIZE above 2^24-1", f.settings((5, 1 << 24))),
    _fatal("6.7", "PING on a stream", f.ping(stream=1)),
    _fatal("6.7", "PING of six octets", f.ping(b"sixoct"), f.FRAME_SIZE),
    _fatal("6.8", "GOAWAY on a stream", f.goaway(stream=1)),
    _fatal("6.9", "WINDOW_UPDATE by 0 of the connection", f.window(0)),
    Case(
        "6.9",
        "WINDOW_UPDATE by 0 of a stream",
        Kind.CONNECTION,
        _OPEN + f.window(0, 1),
        (f.PROTOCOL,),
    ),
    _fatal("6.9", "WINDOW_UPDATE of three octets", frame(f.WINDOW_UPDATE, b"\0\0\1"), f.FRAME_SIZE),
    _fatal(
        "6.9.1",
        "the connection's window above 2^31-1",
        f.window(0x7FFFFFFF) + f.window(1),
        f.FLOW_CONTROL,
    ),
    _stream(
        "6.9.1", "a stream's window above 2^31-1", _OPEN + f.window(0x7FFFFFFF, 1), f.FLOW_CONTROL
    ),
    Case(
        "6.9.2",
        "SETTINGS that lift a stream's window above 2^31-1",
        Kind.STREAM,
        _OPEN + f.window(0x7FFF0000, 1) + f.settings((4, 0x7FFFFFFF)),
        (f.FLOW_CONTROL,),
    ),
    _fatal(
        "6.6",
        "PUSH_PROMISE of a client",
        _OPEN + frame(f.PUSH_PROMISE, b"\0\0\0\2" + f.block(), flags=f.END_HEADERS, stream=1),
    ),
    _fatal("6.10", "DATA inside a header block", _BEGUN + f.data()),
    _fatal("6.10", "CONTINUATION on stream 0", _BEGUN + f.continuation(b"", stream=0)),
    _fatal("6.10", "CONTINUATION after END_HEADERS", f.headers(end=False) + f.continuation(b"")),
    _fatal(
        "6.10",
        "CONTINUATION after the last CONTINUATION",
        _BEGUN + f.continuation(b"") + f.continuation(b""),
    ),
    _fatal("6.10", "CONTINUATION after DATA", _OPEN + f.data() + f.continuation(b"")),
    _fatal("7541 2.3.3", "an index beyond the table", _TABLE(f.block() + b"\xc6"), f.COMPRESSION),
    _fatal(
        "7541 4.2",
        "a change of the table at the end of a block",
        _TABLE(f.block() + b"\x21"),
        f.COMPRESSION,
    ),
    _fatal(
        "7541 5.2",
        "Huffman padding of more than seven bits",
        _TABLE(f.block() + b"\0\x01x\x84\x49\x50\x9f\xff"),
        f.COMPRESSION,
    ),
    _fatal(
        "7541 5.2",
        "Huffman padding with zeros",
        _TABLE(f.block() + b"\0\x01x\x83\x49\x50\x90"),
        f.COMPRESSION,
    ),
    _fatal(
        "7541 5.2", "Huffman EOS", _TABLE(f.block() + b"\0\x01x\x84\xff\xff\xff\xff"), f.COMPRESSION
    ),
    _fatal("7541 6.1", "index 0", _TABLE(f.block() + b"\x80"), f.COMPRESSION),
    _fatal(
        "7541 6.3", "a table larger than agreed", _TABLE(b"\x3f\xe2\x1f" + f.block()), f.COMPRESSION
    ),
)


def _malformed(section: str, what: str, *fields: tuple[bytes, bytes]) -> Case:
    return _stream(section, what, f.headers(fields=fields), f.PROTOCOL)


MALFORMED = (
    _stream("8.1", "a second HEADERS that ends nothing", _OPEN + f.data(end=False) + f.headers(fields=(_MORE,), end=False)),
    _malformed("8.2.1", "an upper-case name", *f.GET, (b"X-TEST", b"1")),
    _malformed("8.2.1", "a name with a colon", *f.GET, (b"a:b", b"1")),
    _malformed("8.2.1", "a name with a space", *f.GET, (b"a b", b"1")),
    _malformed("8.2.1", "a name with NUL", *f.GET, (b"a\0b", b"1")),
    _malformed("8.2.1", "an empty name", *f.GET, (b"", b"1")),
    _malformed("8.2.1", "CR and LF in a value", *f.GET, (b"a", b"b\r\nx: y")),
    _malformed("8.2.1", "LF in a value", *f.GET, (b"a", b"b\nx: y")),
    _malformed("8.2.1", "NUL in a value", *f.GET, (b"a", b"b\0")),
    _malformed("8.2.2", "connection", *f.GET, (b"connection", b"keep-alive")),
    _malformed("8.2.2", "keep-alive", *f.GET, (b"keep-alive", b"1")),
    _malformed("8.2.2", "proxy-connection", *f.GET, (b"proxy-connection", b"keep-alive")),
    _malformed("8.2.2", "transfer-encoding", *f.GET, (b"transfer-encoding", b"chunked")),
    _malformed("8.2.2", "upgrade", *f.GET, (b"upgrade", b"websocket")),
    _malformed("8.2.2", "te other than trailers", *f.GET, (b"te", b"trailers, deflate")),
    _malformed("8.3", "an unknown pseudo-field", *f.GET, (b":test", b"1")),
    _malformed("8.3", "a response's pseudo-field", *f.GET, (b":status", b"200")),
    _malformed("8.3", "a pseudo-field after a field", *f.GET[:3], _MORE, f.GET[3]),
    _stream("8.3", "a pseudo-field in trailers", _OPEN + f.data(end=False) + f.headers(fields=((b":method", b"GET"),))),
    _malformed("8.3.1", "an empty :path", f.GET[0], f.GET[1], (b":path", b""), f.GET[3]),
    _malformed("8.3.1", "no :method", *f.GET[1:]),
    _malformed("8.3.1", "no :scheme", f.GET[0], *f.GET[2:]),
    _malformed("8.3.1", "no :path", *f.GET[:2], f.GET[3]),
    _malformed("8.3.1", "two :method", f.GET[0], *f.GET),
    _malformed("8.3.1", "two :scheme", f.GET[1], *f.GET),
    _malformed("8.3.1", "two :path", f.GET[2], *f.GET),
    _malformed("8.3.1", "two :authority", f.GET[3], *f.GET),
    _stream("8.1.1", "content-length above DATA", f.headers(fields=(*f.POST, (b"content-length", b"2")), end=False) + f.data(b"x")),
    _stream("8.1.1", "content-length below DATA", f.headers(fields=(*f.POST, (b"content-length", b"1")), end=False) + f.data(b"xy")),
    _stream("8.1.1", "content-length below several DATA", f.headers(fields=(*f.POST, (b"content-length", b"1")), end=False) + f.data(b"x", end=False) + f.data(b"y")),
    _stream("8.1.1", "content-length without DATA", f.headers(fields=(*f.POST, (b"content-length", b"1")))),
    _malformed("8.1.1", "two content-lengths", *f.POST, (b"content-length", b"0"), (b"content-length", b"1")),
    _malformed("8.1.1", "a content-length that is no number", *f.POST, (b"content-length", b"+1")),
)  # fmt: skip

CASES = (*SOUND, *WRONG_FRAMES, *MALFORMED)
