"""One HBONE connection: an HTTP/2 session over a TLS link, its streams, PING and drain."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.hbone.connect import check_connect
from mesh.http2.contract import (
    DataReceived,
    Drained,
    Event,
    GoawayReceived,
    HeadersReceived,
    Http2Session,
    PingAcknowledged,
    SettingsReceived,
    StreamEnded,
    StreamReset,
)
from mesh.model.identity import SpiffeId
from mesh.tunnel.contract import (
    Headers,
    Loss,
    LossReason,
    StreamEvents,
    TunnelEvents,
    TunnelSettings,
)
from mesh.tunnel.guards import (
    MAX_BLOCKED_CONTROL_BYTES,
    RESET_BURST,
    RESETS_PER_S,
    Check,
    Liveness,
    TokenBucket,
)
from mesh.tunnel.link import ReadBuffers, TlsLink
from mesh.tunnel.peer import VerifiedPeer
from mesh.tunnel.request import PendingRequest
from mesh.tunnel.stream import NO_ERROR, TunnelStream, describe_error_code
from mesh.tunnel.tls import TlsChannel
from mesh.tunnel.windows import Windows

_OUTPUT_BYTES = 128 * 1024
"""Output made at a time: the most that waits in our memory for a peer that does not read."""

_PING = b"liveness"
_DRAIN_PING = b"draining"
_REFUSED_STREAM = 0x7
_IMPOLITE = frozenset((LossReason.RESET, LossReason.PING_TIMEOUT))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionParts:
    """What the engine hands to each connection."""

    loop: asyncio.AbstractEventLoop
    settings: TunnelSettings
    client: bool
    channel: TlsChannel
    verify: Callable[[bytes | None], VerifiedPeer]
    new_session: Callable[[], Http2Session]
    buffers: ReadBuffers
    on_closed: Callable[[TunnelConnection], None]


class TunnelConnection:
    """Either side of a tunnel (`mesh.tunnel.contract.Tunnel`)."""

    def __init__(self, parts: ConnectionParts, sock: socket.socket, events: TunnelEvents) -> None:
        self._parts = parts
        self._events = events
        self.loop = parts.loop
        self._session: Http2Session | None = None
        self._verified: VerifiedPeer | None = None
        self._streams: dict[int, TunnelStream] = {}
        self._to_reset: list[int] = []
        self._up = False
        self._lost = False
        self._full = False
        self._draining = False  # we sent the last GOAWAY, or the peer sent one
        self._drain_loss = Loss(reason=LossReason.LOCAL, detail="drained")
        self._flush_scheduled = False
        self._blocked_control = 0
        now = parts.loop.time()
        settings = parts.settings
        self.windows = Windows(settings)
        self._liveness = Liveness(settings.ping_interval_s, settings.ping_timeout_s, now)
        self._resets = TokenBucket(RESET_BURST, RESETS_PER_S, now)
        self._drain_timer: asyncio.TimerHandle | None = None
        self._timer = parts.loop.call_later(settings.handshake_timeout_s, self._too_slow)
        self._link = TlsLink(parts.loop, sock, parts.channel, parts.verify, parts.buffers, self)
        parts.loop.call_soon(self._link.start)

    # --- the owner's calls --------------------------------------------------------------------

    @property
    def peer(self) -> SpiffeId | None:
        return self._verified.identity if self._verified and self._up else None

    @property
    def peer_expires_at(self) -> float:
        return self._verified.expires_at if self._verified and self._up else 0.0

    @property
    def active_streams(self) -> int:
        return len(self._streams)

    @property
    def can_open(self) -> bool:
        if not self._up or self._draining or self._lost or not self._parts.client:
            return False
        limit = min(self._parts.settings.max_concurrent_streams, self.session.remote_max_streams)
        return len(self._streams) < limit

    def open_stream(
        self, headers: Headers, sock: socket.socket, events: StreamEvents
    ) -> TunnelStream:
        if not self.can_open:
            raise LocalProtocolError("the tunnel takes no more streams")
        try:
            stream_id = self.session.send_request(headers)
        except LocalProtocolError:
            self._draining = True  # out of stream numbers (RFC 9113 §5.1.1)
            self.schedule_flush()
            raise
        stream = TunnelStream(self, stream_id)
        self._streams[stream_id] = stream
        stream.await_answer(sock, events)
        self._full = not self.can_open
        self.schedule_flush()
        return stream

    def drain(self, timeout_s: float) -> None:
        if self._lost or self._drain_timer is not None:
            return
        self._drain_timer = self.loop.call_later(timeout_s, self._drain_over)
        if self._session is None:
            self._draining = True
        elif self._parts.client:
            self._draining = True
            self._session.goaway(NO_ERROR)
        else:
            # RFC 9113 §6.8: streams under way are still taken until the PING came back.
            self._session.goaway(NO_ERROR, graceful=True)
            self._session.ping(_DRAIN_PING)
        self.schedule_flush()

    def abort(self, detail: str = "") -> None:
        self._lose(Loss(reason=LossReason.LOCAL, detail=detail))

    def close_now(self, detail: str) -> None:
        """Like `abort()`, without a moment for the peer to read the last bytes."""
        self.abort(detail)
        self._link.close(polite=False)

    # --- calls of the streams -----------------------------------------------------------------

    @property
    def session(self) -> Http2Session:
        if self._session is None:
            raise LocalProtocolError("the tunnel is not up")
        return self._session

    def schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush)

    def stream_done(self, stream: TunnelStream) -> None:
        self._streams.pop(stream.id, None)
        self.windows.close(stream.window)
        self.schedule_flush()

    def refuse_stream(self, stream: TunnelStream, status: int, headers: Headers) -> None:
        stream.done = True
        self.stream_done(stream)
        self._refuse(stream.id, status, headers)

    def decline_stream(self, stream: TunnelStream) -> None:
        stream.done = True
        self.session.reset(stream.id, _REFUSED_STREAM)
        self.stream_done(stream)

    # --- events of the link -------------------------------------------------------------------

    def link_up(self, peer: VerifiedPeer) -> None:
        self._verified = peer
        self._session = self._parts.new_session()
        self._flush()

    def link_data(self, data: memoryview) -> None:
        self._liveness.heard(self.loop.time())
        session = self.session
        try:
            events = session.receive(data)
        except RemoteProtocolError as error:
            self._flush()
            self._lose(Loss(reason=LossReason.PROTOCOL, detail=str(error)))
            return
        payload = 0
        for event in events:
            if type(event) is DataReceived:
                payload += len(event.data)
                stream = self._streams.get(event.stream)
                if stream is not None:
                    stream.data_received(event.data, event.flow_bytes)
                else:
                    session.consume(event.stream, event.flow_bytes)
            else:
                self._dispatch(event)
            if self._lost:
                return
        self._guard_blocked(len(data) - payload)
        self.schedule_flush()

    def link_writable(self) -> None:
        self._blocked_control = 0
        self._flush()

    def link_lost(self, loss: Loss) -> None:
        if self._verified is not None and not self._up and loss.reason is LossReason.PEER_CLOSED:
            detail = "peer closed before HTTP/2 began: it may have refused our identity"
            loss = Loss(reason=loss.reason, detail=detail)
        self._lose(loss)

    def link_closed(self) -> None:
        self._parts.on_closed(self)

    # --- events of the session ----------------------------------------------------------------

    def _dispatch(self, event: Event) -> None:
        match event:
            case HeadersReceived():
                self._headers_received(event)
            case StreamEnded():
                if stream := self._streams.get(event.stream):
                    stream.end_received()
            case StreamReset():
                self._reset_received(event)
            case Drained():
                if stream := self._streams.get(event.stream):
                    stream.drained()
            case SettingsReceived():
                self._settings_received()
            case PingAcknowledged():
                if event.payload == _DRAIN_PING and not self._draining:
                    self._draining = True
                    self.session.goaway(NO_ERROR)
            case GoawayReceived():
                self._goaway_received(event)
            case DataReceived():  # handled by the caller, which counts payload
                pass

    def _headers_received(self, event: HeadersReceived) -> None:
        stream = self._streams.get(event.stream)
        if stream is None:
            if not self._parts.client:
                self._request_received(event)
        elif self._parts.client:
            try:
                stream.headers_received(event.headers, event.end_stream)
            except RemoteProtocolError as error:
                stream.abort(str(error))
        elif event.end_stream:  # trailers
            stream.end_received()

    def _request_received(self, event: HeadersReceived) -> None:
        if self._draining:
            self.session.reset(event.stream, _REFUSED_STREAM)
            return
        try:
            check_connect(event.headers)
        except RemoteProtocolError:
            self._refuse(event.stream, 400, ())
            return
        stream = TunnelStream(self, event.stream)
        self._streams[event.stream] = stream
        if event.end_stream:
            stream.end_received()
        self._events.stream_requested(self, PendingRequest(self, stream, event.headers))

    def _reset_received(self, event: StreamReset) -> None:
        if event.remote and not self._resets.take(self.loop.time()):
            detail = "peer floods RST_STREAM"
            self._lose(Loss(reason=LossReason.PROTOCOL, detail=detail))
        elif stream := self._streams.get(event.stream):
            stream.reset_received(event.error_code, event.remote)

    def _settings_received(self) -> None:
        if self._up:
            return
        # A TLS 1.3 client is done before the server looked at its certificate: only the server's
        # first frame says that both sides accept each other.
        self._up = True
        self._timer.cancel()
        self._watch_peer()
        self._events.tunnel_up(self)

    def _goaway_received(self, event: GoawayReceived) -> None:
        if self._parts.client:
            for stream in list(self._streams.values()):
                if stream.id > event.last_stream:
                    detail = f"GOAWAY {describe_error_code(event.error_code)}: not processed"
                    stream.tunnel_lost(detail)
        if not self._draining:
            self._draining = True
            detail = f"peer sent GOAWAY {describe_error_code(event.error_code)}"
            self._drain_loss = Loss(reason=LossReason.PEER_CLOSED, detail=detail)
            if self._up:
                self._events.tunnel_draining(self)

    def _refuse(self, stream_id: int, status: int, headers: Headers) -> None:
        answer = [(b":status", str(status).encode("ascii")), *headers]
        self.session.send_headers(stream_id, answer, end_stream=True)
        # The peer need not say END_STREAM any more (RFC 9113 §8.1); once the answer is out.
        self._to_reset.append(stream_id)
        self.schedule_flush()

    # --- output -------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Send what the session has, one batch at a time, until the kernel takes no more."""
        self._flush_scheduled = False
        session, link = self._session, self._link
        if self._lost or session is None:
            return
        while not link.backlog:
            out, events = session.take_output(_OUTPUT_BYTES)
            if out:
                link.write(out)
            for event in events:
                self._dispatch(event)
            if not out:
                if not self._to_reset:
                    break
                for stream_id in self._to_reset:
                    session.reset(stream_id, NO_ERROR)
                self._to_reset.clear()
        self._after_flush()

    def _after_flush(self) -> None:
        if self._draining and not self._streams and not self._link.backlog:
            self._lose(self._drain_loss)
        elif self._full and self.can_open:
            self._full = False
            self._events.stream_slot_free(self)

    # --- time and ends ------------------------------------------------------------------------

    def _guard_blocked(self, control_bytes: int) -> None:
        if self._link.backlog:
            self._blocked_control += control_bytes
            if self._blocked_control > MAX_BLOCKED_CONTROL_BYTES:
                detail = "peer sends control frames and reads nothing"
                self._lose(Loss(reason=LossReason.PROTOCOL, detail=detail))

    def _watch_peer(self) -> None:
        self._timer = self.loop.call_at(self._liveness.next_check(), self._check_peer)

    def _check_peer(self) -> None:
        check = self._liveness.check(self.loop.time())
        if check is Check.LOST:
            detail = f"no sign of life for {self._parts.settings.ping_timeout_s:g} s after a PING"
            self._lose(Loss(reason=LossReason.PING_TIMEOUT, detail=detail))
            return
        if check is Check.PING:
            self.session.ping(_PING)
            self.schedule_flush()
        if check is Check.RECHECK:
            self._timer = self.loop.call_later(0.01, self._check_peer)
        else:
            self._watch_peer()

    def _too_slow(self) -> None:
        limit = self._parts.settings.handshake_timeout_s
        detail = f"no handshake within {limit:g} s"
        self._lose(Loss(reason=LossReason.HANDSHAKE_TIMEOUT, detail=detail))

    def _drain_over(self) -> None:
        self.abort("drain deadline reached")

    def _lose(self, loss: Loss) -> None:
        if self._lost:
            return
        if self._session is not None and loss.reason is LossReason.LOCAL and not self._link.backlog:
            self._session.goaway(NO_ERROR)
            self._link.write(self._session.take_output(_OUTPUT_BYTES)[0])
        self._lost = True
        self._timer.cancel()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self._link.close(polite=loss.reason not in _IMPOLITE)
        for stream in list(self._streams.values()):
            stream.tunnel_lost(loss.detail or loss.reason)
        self.loop.call_soon(self._events.tunnel_lost, self, loss)
