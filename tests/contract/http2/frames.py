"""Requests and faults as raw frames, for peers that break the rules."""

from __future__ import annotations

from collections.abc import Iterable

from hpack import Encoder
from hyperframe.frame import (
    HeadersFrame,
    SettingsFrame,
)

from mesh.errors import RemoteProtocolError
from mesh.http2.contract import HeadersReceived, Http2Session, SessionSettings
from mesh.http2.framing import GOAWAY, PREFACE
from mesh.http2.select import Engine, new_session
from tests.contract.http2.pair import SERVER, heads

Fields = list[tuple[bytes, bytes]]
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 3
CALM = 11
GET: Fields = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"a"),
    (b":path", b"/"),
]


def headers(
    stream: int, fields: Fields, *, end: bool = False, encoder: Encoder | None = None
) -> bytes:
    block = (encoder or Encoder()).encode(fields, huffman=False)
    flags = ["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"]
    return HeadersFrame(stream, block, flags=flags).serialize()


def server(engine: Engine, settings: SessionSettings = SERVER) -> Http2Session:
    """A server whose peer has sent its preface and settings."""
    session = new_session(settings, engine)
    session.receive(PREFACE + SettingsFrame(0).serialize() + ack())
    session.take_output()
    return session


def ack() -> bytes:
    return SettingsFrame(0, flags=["ACK"]).serialize()


def goaway_code(session: Http2Session) -> int:
    out, _ = session.take_output()
    *_, (length, kind, _, stream) = heads(out)
    assert (kind, stream) == (GOAWAY, 0)
    return int.from_bytes(out[-length:][4:8], "big")


def feed(session: Http2Session, pieces: Iterable[bytes]) -> int:
    """Feed the pieces, as a peer that reads. Returns how many were taken."""
    taken = 0
    for piece in pieces:
        try:
            session.receive(piece)
        except RemoteProtocolError:
            return taken
        session.take_output()
        taken += 1
    return taken


def feed_until_refused(session: Http2Session, piece: bytes, times: int) -> int:
    """Feed `piece` again and again, as a peer that never reads. Returns how often it was taken."""
    for count in range(times):
        try:
            session.receive(piece)
        except RemoteProtocolError:
            return count
    return times


def refused(session: Http2Session, wire: bytes) -> bool:
    """Whether a request got nowhere: stream or connection ended, and no event announced it."""
    try:
        events = session.receive(wire)
    except RemoteProtocolError:
        return goaway_code(session) != NO_ERROR
    out, _ = session.take_output()
    reset = any(kind == 3 for _, kind, _, _ in heads(out))
    return reset and not any(isinstance(event, HeadersReceived) for event in events)
