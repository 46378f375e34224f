"""The tunnel engine's contract: what every engine offers, and what it reports.

Rules that hold for every engine (the suite in `tests/contract/tunnel` checks them):

* A socket given to an engine is connected, non-blocking and belongs to the engine from that call
  on, also if the call raises; the engine closes it exactly once. One exception: a stream that is
  refused gives the application's socket back untouched.
* Callbacks run on the event loop that called the engine, never from inside the call that caused
  them, and never after the object's last one (`tunnel_lost`, `stream_refused`, `stream_closed`,
  `relay_closed`). A callback that raises stops the process: it is a defect of ours.
* No HTTP/2 byte is sent or parsed before the peer's certificate is verified: its chain against
  the bundle, TLS 1.3, ALPN `h2`, a SPIFFE ID in a trusted domain and, for a client, one of the
  expected identities.
* Half-close travels both ways; END_STREAM becomes SHUT_WR and FIN becomes END_STREAM. A stream is
  closed when both directions are. A reset of either side becomes a reset (RST_STREAM, or a close
  with linger 0) on the other.
* Backpressure travels both ways: a slow reader stops the writer. Memory held per stream is bounded
  by one flow-control window (64 KiB, up to 4 MiB while data moves), per tunnel by the connection's
  window, and near zero while idle.
* Streams of one tunnel get fair shares; a stream that is stuck never blocks another one.
* PING after `ping_interval_s` without incoming bytes, tunnel lost after `ping_timeout_s` more.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from mesh.tunnel.lanes import LaneEngine

Headers = Sequence[tuple[bytes, bytes]]
"""Header fields in order, names in lower case, pseudo-headers first (RFC 9113 §8.3)."""


RECORDS_PER_S = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelSettings:
    """Numbers both peers of the de-facto HBONE protocol use (istio/ztunnel `proxy/h2`).

    A stream begins with 64 KiB, or `stream_window_bytes` if that is less, and grows up to
    `stream_window_bytes` while its application keeps reading. The sum of all streams' windows
    never exceeds `connection_window_bytes`, as long as that is at least 64 KiB for each concurrent
    stream, and the connection's is twice that: so streams whose applications do not read cannot
    use up the credit of the others.
    """

    stream_window_bytes: int = 4 * 1024 * 1024
    connection_window_bytes: int = 32 * 1024 * 1024
    max_frame_bytes: int = 1024 * 1024
    max_header_list_bytes: int = 64 * 1024
    max_concurrent_streams: int = 200
    handshake_timeout_s: float = 10.0
    ping_interval_s: float = 10.0
    ping_timeout_s: float = 20.0
    records_per_s: float = RECORDS_PER_S
    """Of connections that an engine carries without asking (`mesh.tunnel.lanes`), those of which it
    tells one by one, in the long run; the others are counted."""


class LossReason(StrEnum):
    """Why a tunnel ended."""

    TLS = "tls"
    """Handshake failed: no or expired certificate, unknown root, no common version or ALPN."""
    IDENTITY = "identity"
    """The certificate is good but its SPIFFE ID is not the one expected, or there is none."""
    PROTOCOL = "protocol"
    PING_TIMEOUT = "ping_timeout"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    PEER_CLOSED = "peer_closed"
    RESET = "reset"
    LOCAL = "local"
    """We ended it: drain finished, `abort()`, engine closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """End of a tunnel. `detail` is for people: it says which certificate check failed."""

    reason: LossReason
    detail: str = ""


class EndReason(StrEnum):
    """Why a stream or relay ended."""

    DONE = "done"
    """Both directions ended in order."""
    APPLICATION_RESET = "application_reset"
    """The socket handed to the engine failed or was reset."""
    PEER_RESET = "peer_reset"
    """RST_STREAM from the tunnel's peer (or a reset of the relay's second socket)."""
    TUNNEL_LOST = "tunnel_lost"
    ABORTED = "aborted"
    """`abort()` was called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """End of a stream or relay.

    Attributes:
        bytes_out: payload read from the (first) socket and sent on.
        bytes_in: payload written to the (first) socket.
    """

    reason: EndReason
    bytes_out: int
    bytes_in: int
    detail: str = ""


class Stream(Protocol):
    """One CONNECT stream that is, or will be, joined to a socket."""

    @property
    def bytes_out(self) -> int: ...
    @property
    def bytes_in(self) -> int: ...
    def abort(self, detail: str = "") -> None:
        """Reset the stream (CANCEL) and the socket; `stream_closed` follows. Idempotent."""


class StreamEvents(Protocol):
    """Reports of one stream, to whoever opened or accepted it."""

    def stream_opened(self, headers: Headers) -> None:
        """Client only: the peer answered 200 and bytes are moving."""

    def stream_refused(self, status: int, headers: Headers, detail: str) -> None:
        """Client only: any other status, or 0 if the stream or tunnel ended before an answer.

        The socket was not touched and belongs to the caller again, who may try another tunnel
        (nothing of the application was read) or reset it. Last event."""

    def stream_closed(self, end: End) -> None:
        """Last event of a stream that was opened or accepted."""


class Tunnel(Protocol):
    """One mutually authenticated HTTP/2 connection."""

    @property
    def peer(self) -> SpiffeId | None:
        """Verified identity of the peer; None before `tunnel_up`."""

    @property
    def peer_expires_at(self) -> float:
        """When the peer's proof of it ends, epoch seconds; 0 before `tunnel_up`. Whoever holds the
        tunnel ends it then: the engine knows no wall clock."""

    @property
    def active_streams(self) -> int: ...

    @property
    def can_open(self) -> bool:
        """Up, not draining, below the peer's (and our) limit of concurrent streams."""

    def open_stream(self, headers: Headers, sock: socket.socket, events: StreamEvents) -> Stream:
        """Client: send CONNECT; join `sock` to the stream once 200 arrives.

        Bytes of the application are read only after the answer; until then the engine does not
        touch the socket (see `stream_refused`). Raises `LocalProtocolError` if not `can_open`;
        the socket then stays the caller's.
        """

    def drain(self, timeout_s: float) -> None:
        """GOAWAY now, finish the open streams, end the tunnel after `timeout_s` at the latest."""

    def abort(self, detail: str = "") -> None:
        """End the tunnel now; streams end with TUNNEL_LOST. Idempotent."""


class StreamRequest(Protocol):
    """Server: a CONNECT request that waits for an answer. Answer exactly once."""

    @property
    def headers(self) -> Headers: ...
    def accept(self, headers: Headers, sock: socket.socket, events: StreamEvents) -> Stream:
        """Answer 200 with further `headers` and join `sock`. If the stream is gone already, the
        socket is closed and `stream_closed(PEER_RESET)` follows."""

    def refuse(self, status: int, headers: Headers = ()) -> None:
        """Answer `status` with END_STREAM. Nothing happens if the stream is gone already."""

    def decline(self) -> None:
        """Say that nothing was done with the request (REFUSED_STREAM, RFC 9113 §8.7): the client
        may try it on another tunnel. Nothing happens if the stream is gone already."""


class TunnelEvents(Protocol):
    """Reports of one tunnel, to whoever dialled or accepted it."""

    def tunnel_up(self, tunnel: Tunnel) -> None: ...
    def tunnel_draining(self, tunnel: Tunnel) -> None:
        """The peer sent GOAWAY: open no more streams here."""

    def stream_requested(self, tunnel: Tunnel, request: StreamRequest) -> None:
        """Server only. Requests that are not a well-formed ordinary CONNECT never get here: the
        engine answers 400 (not CONNECT, bad headers) itself."""

    def stream_slot_free(self, tunnel: Tunnel) -> None:
        """A stream ended and `can_open` became true again."""

    def tunnel_lost(self, tunnel: Tunnel, loss: Loss) -> None:
        """Last event. Also reports a handshake that failed (then `tunnel_up` never came)."""


class RelayEvents(Protocol):
    """Reports of one plain relay."""

    def relay_closed(self, end: End) -> None: ...


class Relay(Protocol):
    """Two plain sockets joined to each other."""

    @property
    def bytes_out(self) -> int: ...
    @property
    def bytes_in(self) -> int: ...
    def abort(self, detail: str = "") -> None: ...


class TunnelEngine(Protocol):
    """Moves bytes. Holds no policy, dials nothing, makes no socket."""

    def client(
        self,
        sock: socket.socket,
        credentials: Credentials,
        expected: frozenset[SpiffeId],
        events: TunnelEvents,
    ) -> Tunnel:
        """Start the client side of a tunnel on a connected socket. `expected` must not be empty."""

    def server(self, sock: socket.socket, credentials: Credentials, events: TunnelEvents) -> Tunnel:
        """Start the server side on an accepted socket; any identity of the bundle's trust domains
        may connect (what it may reach is policy)."""

    def relay(self, first: socket.socket, second: socket.socket, events: RelayEvents) -> Relay:
        """Join two connected sockets, with half-close, backpressure and byte counts."""

    @property
    def lanes(self) -> LaneEngine | None:
        """For engines that can repeat decisions; see there."""

    async def aclose(self) -> None:
        """Abort whatever is left and wait until every last event was delivered."""
