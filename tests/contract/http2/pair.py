"""Two sessions wired back to back in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from mesh.http2.contract import DataReceived, Event, Headers, Http2Session, SessionSettings
from mesh.http2.select import Engine, new_session

CONNECT = [(b":method", b"CONNECT"), (b":authority", b"192.0.2.1:80")]
OK = [(b":status", b"200")]
REFUSED_STREAM, CANCEL = 7, 8
"""Error codes of RFC 9113 §7."""
ENGINES: tuple[Engine, ...] = ("nghttp2", "h2")
SERVER = SessionSettings(
    client=False,
    stream_window_bytes=4 << 20,
    connection_window_bytes=16 << 20,
    max_frame_bytes=1 << 20,
    max_header_list_bytes=1 << 16,
    max_concurrent_streams=200,
)
CLIENT = replace(SERVER, client=True)


@dataclass
class Pair:
    """`client_saw` and `server_saw` hold the events of the last `exchange()`."""

    client: Http2Session
    server: Http2Session
    piece: int = 1 << 30
    client_saw: list[Event] = field(default_factory=list)
    server_saw: list[Event] = field(default_factory=list)

    def exchange(self, limit: int = 1 << 20) -> Pair:
        """Carry bytes both ways until nobody has more to say."""
        self.client_saw, self.server_saw = [], []
        for _ in range(10_000):
            moved = self._carry(self.client, self.client_saw, self.server, self.server_saw, limit)
            moved |= self._carry(self.server, self.server_saw, self.client, self.client_saw, limit)
            if not moved:
                assert not self.client.wants_output
                assert not self.server.wants_output
                return self
        raise AssertionError("the sessions never fall silent")

    def _carry(
        self,
        src: Http2Session,
        src_saw: list[Event],
        dst: Http2Session,
        dst_saw: list[Event],
        limit: int,
    ) -> bool:
        wanted = src.wants_output
        out, events = src.take_output(limit)
        assert wanted == bool(out)
        src_saw += events
        for start in range(0, len(out), self.piece):
            dst_saw += dst.receive(out[start : start + self.piece])
        return bool(out)

    def open(self, headers: Headers = CONNECT, *, answer: bool = True) -> int:
        stream = self.client.send_request(headers)
        self.exchange()
        if answer:
            self.server.send_headers(stream, OK)
            self.exchange()
        return stream


def pair(
    client: Engine,
    server: Engine,
    *,
    client_side: SessionSettings = CLIENT,
    server_side: SessionSettings = SERVER,
    piece: int = 1 << 30,
) -> Pair:
    """Connected, and past the exchange of SETTINGS."""
    return Pair(
        new_session(client_side, client), new_session(server_side, server), piece
    ).exchange()


def payload(events: list[Event], stream: int) -> bytes:
    return b"".join(e.data for e in events if isinstance(e, DataReceived) and e.stream == stream)


def flow_bytes(events: list[Event], stream: int) -> int:
    return sum(e.flow_bytes for e in events if isinstance(e, DataReceived) and e.stream == stream)


def heads(wire: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Length, kind, flags and stream of each frame."""
    at = 0
    while at < len(wire):
        length = int.from_bytes(wire[at : at + 3], "big")
        yield length, wire[at + 3], wire[at + 4], int.from_bytes(wire[at + 5 : at + 9], "big")
        at += 9 + length
