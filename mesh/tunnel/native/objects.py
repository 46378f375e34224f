"""Tunnels, streams, requests and relays of the native engine (`mesh.tunnel.contract`).

The thread may be ahead of what Python was told. So what a caller decides on (`can_open`) is counted
here, from the events that were delivered, and is on the safe side.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol

from mesh.errors import IdentityError, LocalProtocolError, RemoteProtocolError
from mesh.hbone.connect import check_connect
from mesh.model.identity import SpiffeId
from mesh.tunnel.contract import (
    End,
    EndReason,
    Headers,
    Loss,
    RelayEvents,
    StreamEvents,
    TunnelEvents,
)
from mesh.tunnel.native import core
from mesh.tunnel.native.core import Core, Handle, Record
from mesh.tunnel.peer import VerifiedPeer, verify_peer
from mesh.tunnel.port import close_with_reset


class Subject(Protocol):
    """Whoever events are about."""

    def event(self, record: Record) -> bool:
        """React; True after the last event."""


class Host(Protocol):
    """The engine, as its objects see it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def core(self) -> Core | None:
        """None once the engine is being closed: last events come, commands are of no use."""

    def register(self, handle: Handle, subject: Subject) -> None:
        """Deliver the events of `handle` from now on, until the last one."""


def end_of(record: Record) -> End:
    return End(
        reason=core.ENDS[record.code],
        bytes_out=record.bytes_out,
        bytes_in=record.bytes_in,
        detail=record.detail,
    )


class Moving:
    """Whatever moves bytes and can be aborted."""

    __slots__ = ("_aborted", "_handle", "_host")

    def __init__(self, host: Host, handle: Handle) -> None:
        self._host = host
        self._handle = handle
        self._aborted = False

    @property
    def bytes_out(self) -> int:
        return core.bytes_out(self._handle)

    @property
    def bytes_in(self) -> int:
        return core.bytes_in(self._handle)

    def abort(self, detail: str = "") -> None:
        if not self._aborted and self._host.core is not None:
            self._aborted = True
            self._host.core.abort(self._handle, detail)


class NativeRelay(Moving):
    __slots__ = ("_events",)

    def __init__(self, host: Host, handle: Handle, events: RelayEvents) -> None:
        super().__init__(host, handle)
        self._events = events
        host.register(handle, self)

    def event(self, record: Record) -> bool:
        self._events.relay_closed(end_of(record))
        return True


class NativeStream(Moving):
    """A stream of either side; a client's holds its socket until the answer."""

    __slots__ = ("_events", "_sock", "_tunnel")

    def __init__(
        self,
        host: Host,
        handle: Handle,
        events: StreamEvents,
        tunnel: NativeTunnel | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        super().__init__(host, handle)
        self._events = events
        self._tunnel = tunnel
        self._sock = sock
        host.register(handle, self)

    def event(self, record: Record) -> bool:
        sock, self._sock = self._sock, None
        if record.kind == core.OPENED:
            if sock is not None:
                sock.detach()  # the thread's from now on
            if not self._aborted:
                self._events.stream_opened(record.headers)
            return False
        if self._tunnel is None:
            self._events.stream_closed(end_of(record))
        else:
            self._tunnel.stream_ended()
            self._last(record, sock)
            self._tunnel.check_slot()
        return True

    def _last(self, record: Record, sock: socket.socket | None) -> None:
        if record.kind == core.CLOSED:
            if sock is not None:
                sock.detach()
            self._events.stream_closed(end_of(record))
        elif self._aborted and sock is not None:
            # Refused just before `abort()`: the caller wants no socket back any more.
            close_with_reset(sock)
            end = End(reason=EndReason.ABORTED, bytes_out=0, bytes_in=0)
            self._events.stream_closed(end)
        else:
            detail = "" if record.headers else record.detail
            self._events.stream_refused(record.code, record.headers, detail)


class NativeRequest:
    """See `mesh.tunnel.contract.StreamRequest`."""

    __slots__ = ("_answered", "_handle", "_headers", "_host")

    def __init__(self, host: Host, handle: Handle, headers: Headers) -> None:
        self._host = host
        self._handle = handle
        self._headers = headers
        self._answered = False

    @property
    def headers(self) -> Headers:
        return self._headers

    def accept(self, headers: Headers, sock: socket.socket, events: StreamEvents) -> NativeStream:
        try:
            engine = self._answer()
            if engine is not None:
                engine.accept(self._handle, [(b":status", b"200"), *headers], sock.fileno())
        except LocalProtocolError:
            sock.close()
            raise
        if engine is not None:
            sock.detach()
            return NativeStream(self._host, self._handle, events)
        close_with_reset(sock)
        end = End(
            reason=EndReason.PEER_RESET,
            bytes_out=0,
            bytes_in=0,
            detail="the stream ended before it was accepted",
        )
        self._host.loop.call_soon(events.stream_closed, end)
        return NativeStream(self._host, self._handle, events)

    def refuse(self, status: int, headers: Headers = ()) -> None:
        engine = self._answer()
        if engine is not None:
            answer = [(b":status", str(status).encode("ascii")), *headers]
            engine.refuse(self._handle, answer)

    def decline(self) -> None:
        engine = self._answer()
        if engine is not None:
            engine.decline(self._handle)

    def _answer(self) -> Core | None:
        if self._answered:
            raise LocalProtocolError("a CONNECT request was answered twice")
        self._answered = True
        return self._host.core


class NativeTunnel:
    """Either side of a tunnel."""

    __slots__ = (
        "_aborted",
        "_draining",
        "_events",
        "_expected",
        "_full",
        "_handle",
        "_host",
        "_limit",
        "_max_streams",
        "_open",
        "_over",
        "_peer",
        "_trust_domains",
        "_up",
    )

    def __init__(
        self,
        host: Host,
        handle: Handle,
        events: TunnelEvents,
        *,
        trust_domains: tuple[str, ...],
        expected: frozenset[SpiffeId],
        max_streams: int,
    ) -> None:
        """`expected` is empty for a server, which then opens no streams."""
        self._host = host
        self._handle = handle
        self._events = events
        self._trust_domains = trust_domains
        self._expected = expected
        self._max_streams = max_streams
        self._limit = 0
        self._open = 0
        self._peer: VerifiedPeer | None = None
        self._up = self._draining = self._full = self._aborted = self._over = False
        host.register(handle, self)

    # --- the owner's calls --------------------------------------------------------------------

    @property
    def handle(self) -> Handle:
        """For lanes."""
        return self._handle

    @property
    def peer(self) -> SpiffeId | None:
        return self._peer.identity if self._peer and self._up else None

    @property
    def peer_expires_at(self) -> float:
        return self._peer.expires_at if self._peer and self._up else 0.0

    @property
    def active_streams(self) -> int:
        if self._expected:
            return self._open + core.lane_streams(self._handle)
        return core.active_streams(self._handle)

    @property
    def can_open(self) -> bool:
        if not self._up or self._draining or self._aborted or self._over or not self._expected:
            return False
        limit = min(self._max_streams, self._limit)
        return self.active_streams < limit and self._host.core is not None

    def open_stream(
        self, headers: Headers, sock: socket.socket, events: StreamEvents
    ) -> NativeStream:
        engine = self._host.core
        if engine is None or not self.can_open:
            raise LocalProtocolError("the tunnel takes no more streams")
        handle = engine.open_stream(self._handle, headers, sock.fileno())
        self._open += 1
        self._full = not self.can_open
        return NativeStream(self._host, handle, events, self, sock)

    def drain(self, timeout_s: float) -> None:
        if self._host.core is not None:
            self._draining = True
            self._host.core.drain(self._handle, timeout_s)

    def abort(self, detail: str = "") -> None:
        if not self._aborted and self._host.core is not None:
            self._aborted = True
            self._host.core.abort(self._handle, detail)

    # --- events -------------------------------------------------------------------------------

    def event(self, record: Record) -> bool:
        kind = record.kind
        if kind == core.LOST:
            self._over = True
            loss = Loss(reason=core.LOSSES[record.code], detail=record.detail)
            self._events.tunnel_lost(self, loss)
            return True
        if self._aborted:
            return False
        if kind == core.HANDSHAKE:
            self._judge(record.text)
        elif kind == core.UP:
            self._up = True
            self._events.tunnel_up(self)
        elif kind == core.PEER_LIMIT:
            self._limit = record.code
            self.check_slot()
        elif kind == core.DRAINING:
            self._draining = True
            self._events.tunnel_draining(self)
        elif kind == core.REQUEST and record.stream is not None:
            self._requested(NativeRequest(self._host, record.stream, record.headers))
        return False

    def stream_ended(self) -> None:
        self._open -= 1

    def check_slot(self) -> None:
        if self._full and self.can_open:
            self._full = False
            self._events.stream_slot_free(self)

    def _judge(self, der: bytes) -> None:
        """The chain is good; is the identity? Nothing is sent or parsed before we say so."""
        engine = self._host.core
        if engine is None:
            return
        try:
            self._peer = verify_peer(der, self._trust_domains, self._expected)
        except IdentityError as error:
            engine.reject(self._handle, str(error))
        else:
            engine.approve(self._handle)

    def _requested(self, request: NativeRequest) -> None:
        try:
            check_connect(request.headers)
        except RemoteProtocolError:
            request.refuse(400)
            return
        self._events.stream_requested(self, request)
