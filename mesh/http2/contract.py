"""What an HTTP/2 session offers. No I/O, no clock, no threads.

Flow control towards the peer is explicit: received DATA counts against our windows until
`consume()` is called. Flow control from the peer is hidden: `send_data()` queues, `unsent_bytes()`
tells how much still waits, `Drained` says when the queue of a stream ran empty.

Limits against hostile peers are the session's own business (`limits.py`, `flood.h`): a peer that
exceeds one gets a stream reset or a connection error. A request that is malformed is never
announced. Which of the two answers a fault gets may differ between engines where RFC 9113 leaves
the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """Our side's SETTINGS and windows (RFC 9113 §6.5.2), plus our own limits."""

    client: bool
    stream_window_bytes: int
    connection_window_bytes: int
    max_frame_bytes: int
    max_header_list_bytes: int
    max_concurrent_streams: int
    extended_connect: bool = False
    """A server takes requests with `:protocol` (RFC 8441). The portable engine never says so."""
    ahead_bytes: int = 0
    """So much received DATA takes nothing of the connection's window before `consume()`: streams
    that stand still don't stop the others. The portable engine lets it take always."""


@dataclass(frozen=True, slots=True)
class HeadersReceived:
    """A request, a final response, an informational response or trailers. With `end_stream`, a
    `StreamEnded` follows too."""

    stream: int
    headers: Headers
    end_stream: bool
    unknown: bool = False
    """A lane (`mesh.http2.lane`) would take such requests if it knew what is decided of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRequest:
    """A request that a lane took.

    Attributes:
        headers: as they came; request_id: as it went on.
        received_bytes, sent_bytes: of the bodies of request and answer.
        seconds: since it came; answered_s: until its answer began, None if it did not.
        status: 0 without an answer; grpc_status: -1 without one.
        entry, target: the decision it was taken by, and where it went.
        is_over: the request is complete.
        why: of `mesh.http2.lane.End` if it has ended, else of `mesh.http2.lane.Reason`.
        error_code: of a reset.
    """

    headers: Headers
    request_id: bytes
    received_bytes: int
    sent_bytes: int
    seconds: float
    answered_s: float | None
    status: int
    grpc_status: int
    entry: int
    target: int
    is_over: bool
    why: int
    error_code: int


@dataclass(frozen=True, slots=True)
class RequestReturned:
    """A request that a lane took is the session's again; `body` is all that came of its body, or
    None if that was too much to be kept. If it is not over, more events follow."""

    stream: int
    request: LaneRequest
    body: bytes | None


@dataclass(frozen=True, slots=True)
class RequestTold:
    """A request that a lane took has ended, and is in none of its counts."""

    request: LaneRequest


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Payload of DATA frames. Call `consume()` for `flow_bytes` (payload plus padding) once it
    has been passed on."""

    stream: int
    data: bytes
    flow_bytes: int


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer sent END_STREAM."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """RST_STREAM from the peer, or a stream error that made us send one (`remote` is False). Also
    told, as REFUSED_STREAM, for each of our streams that a GOAWAY did not take. Last event of its
    stream; `reset()` of our own causes none."""

    stream: int
    error_code: int
    remote: bool = True


@dataclass(frozen=True, slots=True)
class Drained:
    """Everything queued on the stream, END_STREAM and trailers included if asked for, became
    frames. Headers that end a stream with nothing queued before them (a request or response
    without a body) cause none."""

    stream: int


@dataclass(frozen=True, slots=True)
class SettingsReceived:
    """The peer's SETTINGS arrived; `remote_max_streams` and the frame size are up to date."""


@dataclass(frozen=True, slots=True)
class PingAcknowledged:
    payload: bytes


@dataclass(frozen=True, slots=True)
class GoawayReceived:
    """The peer will take no stream above `last_stream`. 0x7fffffff announces a graceful end."""

    last_stream: int
    error_code: int


Event = (
    HeadersReceived
    | RequestReturned
    | RequestTold
    | DataReceived
    | StreamEnded
    | StreamReset
    | Drained
    | SettingsReceived
    | PingAcknowledged
    | GoawayReceived
)


class Http2Session(Protocol):
    """One side of one HTTP/2 connection."""

    def receive(self, data: bytes | memoryview) -> list[Event]:
        """Parse bytes of the peer. Raises `RemoteProtocolError` on a connection error; what
        `take_output()` then returns (a GOAWAY) should still be sent. The session is dead from then
        on: `receive()` raises again, every other call does nothing (a request: see there)."""

    def take_output(self, limit: int = 1 << 20) -> tuple[bytes, list[Event]]:
        """Bytes to send now, about `limit` at most, with the `Drained` events they caused. Empty
        bytes: nothing can be sent until something is received, queued or consumed. Streams take
        turns: a frame as large as the peer allows for one alone, 64 KiB each for several. A smaller
        `limit` lets short messages overtake long ones sooner."""

    def send_request(self, headers: Headers, *, end_stream: bool = False) -> int:
        """Open a stream (client). Returns its id. Raises `LocalProtocolError` if none is left: the
        peer's limit is reached, GOAWAY was sent or received, the session is dead, ids ran out; or
        if a header field cannot be sent."""

    def send_headers(self, stream: int, headers: Headers, *, end_stream: bool = False) -> None:
        """Response headers, informational responses or trailers (after what is queued). `:status`
        comes first. A stream that is gone swallows them. Raises `LocalProtocolError` for a step out
        of order or a header field that cannot be sent."""

    def send_data(self, stream: int, data: bytes, *, end_stream: bool = False) -> None:
        """Queue payload, by reference if it is large. A stream that is gone swallows it (its reset
        was or will be reported). Raises `LocalProtocolError` after END_STREAM and, for a server,
        before the response."""

    def unsent_bytes(self, stream: int) -> int:
        """Bytes queued on the stream that are not in frames yet; 0 for an unknown stream."""

    def consume(self, stream: int, flow_bytes: int) -> None:
        """Give back flow-control credit for received DATA (also after the stream is gone)."""

    def widen(self, stream: int, more_bytes: int) -> None:
        """Let the peer send so many bytes more ahead on this stream from now on. Nothing happens
        for an unknown stream."""

    def reset(self, stream: int, error_code: int) -> None:
        """Send RST_STREAM and drop what is queued. Nothing happens for an unknown stream."""

    def stop(self, stream: int) -> None:
        """Say RST_STREAM(NO_ERROR) once an answer that was sent to its end is in frames: the rest
        of the request is not wanted (RFC 9113 §8.1). Nothing happens if it has come already."""

    def ping(self, payload: bytes) -> None:
        """Send a PING of eight bytes. PINGs of the peer are answered by the session."""

    def goaway(self, error_code: int = 0, *, graceful: bool = False) -> None:
        """Send GOAWAY: with `graceful`, first announce 2^31-1, so that streams under way are
        still taken (RFC 9113 §6.8); otherwise with the last stream taken: later ones are not
        announced. A client has nothing to announce. Once no stream is left after a GOAWAY, input
        may be ignored: close the connection."""

    @property
    def open_streams(self) -> int:
        """Streams that are not closed in both directions."""

    @property
    def remote_max_streams(self) -> int:
        """The peer's MAX_CONCURRENT_STREAMS (2^31-1 until it says)."""

    @property
    def remote_extended_connect(self) -> bool:
        """Whether the peer takes requests with `:protocol` (RFC 8441), as its SETTINGS say."""

    @property
    def wants_output(self) -> bool:
        """`take_output()` would return bytes."""
