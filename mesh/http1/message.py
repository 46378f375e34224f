"""Heads of messages as values, and the events a reader reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from mesh.errors import RemoteProtocolError

Headers = list[tuple[bytes, bytes]]
"""Fields in order, names in lower case, values without surrounding white space."""


CONNECT = b"CONNECT"
"""Method of a request for a tunnel; also what such a request has as `RequestHead.upgrade`, in
capitals, which no Upgrade field yields."""


class MessageError(RemoteProtocolError):
    """A message that must not be passed on.

    Attributes:
        status: what a server answers before it closes the connection.
        code: short name for access log and metrics (`http1.bad_chunk`).
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


class Framing(Enum):
    """How the end of a body is found (RFC 9112 §6.3)."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    UNTIL_CLOSE = auto()
    """Responses only."""
    RAW = auto()
    """After an upgrade: bytes of another protocol."""


@dataclass(slots=True, kw_only=True)
class RequestHead:
    """Request line and fields.

    Attributes:
        target: origin-form or `*`; an absolute-form's host went into `host`. Of CONNECT: the
            authority.
        host: value of Host; empty only in HTTP/1.0.
        headers: without Host and without the fields that frame the message or belong to the
            connection (RFC 9110 §7.6.1).
        minor: of the version.
        length: of the body, None where it is not known ahead.
        keep_alive: the peer takes another response on this connection.
        upgrade: the one protocol the client would switch to, lower case; empty if none; `CONNECT`
            for a tunnel, which any 2xx opens (RFC 9110 §9.3.6).
        expects_continue: the client waits for 100 before it sends the body.
        takes_trailers: `TE: trailers`.
    """

    method: bytes
    target: bytes
    host: bytes
    headers: Headers
    minor: int
    framing: Framing
    length: int | None
    keep_alive: bool
    upgrade: bytes = b""
    expects_continue: bool = False
    takes_trailers: bool = False


@dataclass(slots=True, kw_only=True)
class ResponseHead:
    """Status line and fields; see `RequestHead`. `upgrade` is set in a 101 or CONNECT's 2xx."""

    status: int
    headers: Headers
    minor: int
    framing: Framing
    length: int | None
    keep_alive: bool
    upgrade: bytes = b""


@dataclass(slots=True)
class Body:
    """Payload, without chunk framing."""

    data: bytes


@dataclass(slots=True)
class End:
    """The message is complete."""

    trailers: Headers


RequestEvent = RequestHead | Body | End
ResponseEvent = ResponseHead | Body | End


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one message; Envoy's defaults where it has them."""

    line_bytes: int = 16 * 1024
    head_bytes: int = 60 * 1024
    fields: int = 100
    trailer_bytes: int = 16 * 1024
    chunk_line_bytes: int = 512
    """A chunk's size with its extensions."""
    chunk_overhead_bytes: int = 64 * 1024
    """Chunk lines of a message beyond what its payload earns: extensions, one-byte chunks."""
