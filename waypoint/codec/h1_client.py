"""HTTP/1.1 towards a server: one connection, one request at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import assert_never, cast

from mesh.http1.chunked import encode_chunk, encode_last_chunk
from mesh.http1.message import (
    Body,
    End,
    Framing,
    Headers,
    MessageError,
    RequestHead,
    ResponseHead,
)
from mesh.http1.reader import ResponseReader
from mesh.http1.writer import format_request
from mesh.model.request import RequestFlag
from waypoint.codec.flush_queue import LARGE_BYTES, FlushQueue
from waypoint.contract import Failure, FailureKind, ResponseSink
from waypoint.limits import ProxyLimits


class Http1Client(asyncio.Protocol):
    """A server's connection; also `waypoint.contract.UpstreamStream` of its present request.

    Args:
        on_free: the connection can take another request.
        on_closed: it cannot any more; told once.
    """

    def __init__(
        self,
        limits: ProxyLimits,
        on_free: Callable[[Http1Client], None],
        on_closed: Callable[[Http1Client], None],
        flushes: FlushQueue,
    ) -> None:
        self._limits = limits
        self._on_free = on_free
        self._on_closed = on_closed
        self._reader = ResponseReader(limits.message)
        self._transport: asyncio.Transport | None = None
        self._sink: ResponseSink | None = None
        self._framing = Framing.NONE
        self._sent = self._blocked = False
        self._heard = False
        self._raw = False
        self._keep_alive = True
        self._out: list[bytes] = []
        self._queued = False
        self._flushes = flushes
        self.uses = 0
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface without the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._limits.high_water_bytes)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def start(self, head: RequestHead, sink: ResponseSink) -> Http1Client:
        """Send a request. Raises `LocalProtocolError` if it can't be written; nothing was sent."""
        framing = head.framing
        block = format_request(
            head.method,
            head.target,
            head.host,
            head.headers,
            framing,
            head.length,
            upgrade=head.upgrade,
            takes_trailers=head.takes_trailers,
        )
        self._reader.expect(head)
        self._sink = sink
        self._framing = framing
        self._sent = framing is Framing.NONE
        self._heard = self._raw = False
        self._keep_alive = True
        self.uses += 1
        self._out.append(block)
        self.resume_reading()  # the request before may have left it paused
        if self._blocked:
            sink.upstream_blocked(True)
        return self

    def resume(self, head: RequestHead, sink: ResponseSink, uses: int, unsent: bytes) -> None:
        """Take over a request that was sent on this connection already, but for its last bytes.

        They must go out before any other request does, whatever the answer says meanwhile.
        """
        self._reader.expect(head)
        self._sink = sink
        self._framing = head.framing
        self._sent = True
        self.uses = uses
        if unsent:
            self._out.append(unsent)
            self.write_now()

    # --- UpstreamStream -------------------------------------------------------------------------

    def send_body(self, data: bytes) -> None:
        chunked = self._framing is Framing.CHUNKED and not self._raw
        self._out.append(encode_chunk(data) if chunked else data)
        if len(data) >= LARGE_BYTES:
            self.write_now()

    def send_end(self, trailers: Headers) -> None:
        self._sent = True
        transport = self._transport
        if transport is None:
            return
        if self._framing is Framing.CHUNKED and not self._raw:
            self._out.append(encode_last_chunk(trailers))
        self.flush()
        if self._raw and transport.can_write_eof():
            self.write_now()
            transport.write_eof()

    def flush(self) -> None:
        if self._out and not self._queued:
            self._queued = True
            self._flushes.add(self)

    def write_now(self) -> None:
        """Write what was collected."""
        self._queued = False
        out = self._out
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def cancel(self) -> None:
        """An answer that is not wanted may still come: the connection is of no more use."""
        self._sink = None
        if self._raw:
            self.write_now()
        self._out.clear()
        if self._transport is not None:
            if self._raw:
                self._transport.close()  # what the client sent last is still on its way
            else:
                self._transport.abort()

    def close(self) -> None:
        """Close an idle connection."""
        if self._transport is not None:
            self._transport.close()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()

    # --- transport ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._sink is None:
            self._abort()  # bytes that nobody asked for: never use it again
            return
        self._heard = True
        try:
            events = self._reader.receive(data)
        except MessageError as error:
            self._fail(RequestFlag.UPSTREAM_PROTOCOL_ERROR, error.code)
            return
        for event in events:
            self._handle(event)
        if self._sink is not None:
            self._sink.flush_response()

    def _handle(self, event: ResponseHead | Body | End) -> None:
        sink = self._sink
        if sink is None:
            return
        match event:
            case ResponseHead():
                if event.status < 200 and not event.upgrade:
                    sink.informed(event)
                    return
                self._keep_alive = event.keep_alive
                self._raw = bool(event.upgrade)
                sink.responded(event)
            case Body():
                sink.response_body(event.data)
            case End():
                self._finish(sink, event.trailers)
            case _:
                assert_never(event)

    def _finish(self, sink: ResponseSink, trailers: Headers) -> None:
        if self._raw:
            sink.response_end(trailers)  # the other direction may go on
            return
        self._sink = None
        clean = self._keep_alive and self._sent and not self._reader.waiting_bytes
        if clean and self.is_open:
            # Before the exchange ends: the next request of this client may come at once.
            self._on_free(self)
        else:
            self._abort()
        sink.response_end(trailers)

    def eof_received(self) -> bool:
        if self._sink is not None and self._raw:
            self._sink.response_end([])
            return True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._on_closed(self)
        sink = self._sink
        if sink is None:
            return
        if self._heard and error is None:
            try:
                for event in self._reader.receive_eof():
                    self._keep_alive = False
                    self._handle(event)
            except MessageError as cut:
                self._fail(RequestFlag.UPSTREAM_CLOSED, cut.code)
            return
        self._fail(RequestFlag.UPSTREAM_CLOSED, str(error or "closed before an answer"))

    def pause_writing(self) -> None:
        self._blocked = True
        if self._sink is not None:
            self._sink.upstream_blocked(True)

    def resume_writing(self) -> None:
        self._blocked = False
        if self._sink is not None:
            self._sink.upstream_blocked(False)

    def _fail(self, flag: RequestFlag, detail: str) -> None:
        sink, self._sink = self._sink, None
        self._abort()
        if sink is None:
            return
        reused = self.uses > 1 and not self._heard
        kind = FailureKind.NO_ANSWER_REUSED if reused else FailureKind.MAY_BE_DELIVERED
        sink.upstream_failed(Failure(kind=kind, flag=flag, detail=detail))

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
