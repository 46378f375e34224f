"""HTTP/1.1 towards the client: one connection, one exchange at a time, answers in order."""

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
    RequestEvent,
    RequestHead,
    ResponseHead,
)
from mesh.http1.reader import RequestReader
from mesh.http1.writer import format_response
from mesh.model.request import RequestFlag
from waypoint.codec.flush_queue import LARGE_BYTES, FlushQueue
from waypoint.codec.local_reply import error_page
from waypoint.contract import Exchanges, Origin, RequestSink
from waypoint.limits import ProxyLimits

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Http1Server(asyncio.Protocol):
    """The protocol of a client's transport; also `waypoint.contract.Downstream`."""

    protocol = "HTTP/1.1"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        exchanges: Exchanges,
        origin: Origin,
        limits: ProxyLimits,
        on_closed: Callable[[Http1Server], None],
        flushes: FlushQueue,
    ) -> None:
        self._on_closed = on_closed
        self._flushes = flushes
        self._loop = loop
        self._exchanges = exchanges
        self._origin = origin
        self._limits = limits
        self._reader = RequestReader(limits.message)
        self._transport: asyncio.Transport | None = None
        self._exchange: RequestSink | None = None
        self._head: RequestHead | None = None
        self._framing = Framing.NONE
        self._owes_continue = False
        self._keep_alive = True
        self._responded = False
        self._paused = False
        self._blocked = False
        self._lingering = False
        self._out: list[bytes] = []
        self._queued = False
        self._draining = False
        self._at_end = False
        """The client sends no more; what it sent is still to be handled."""
        self._heard_at = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._written = 0
        self._write_timer: asyncio.TimerHandle | None = None

    # --- transport ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface without the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._limits.high_water_bytes)
        self._timer = self._loop.call_later(self._limits.header_timeout_s, self._check_time)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        if self._lingering:
            return
        try:
            events = self._reader.receive(data)
        except MessageError as error:
            self._refuse(error)
            return
        self._handle(events)
        if self._lingering or self._transport is None:
            return
        if self._reader.has_ended and self._reader.waiting_bytes:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        exchange = self._exchange
        if exchange is None or self._lingering:
            self.write_now()  # an answer of this very turn
            return False
        if self._reader.is_raw:
            exchange.request_end([])
            return True
        if not self._reader.has_ended:
            self._exchange = None
            exchange.client_gone(RequestFlag.DOWNSTREAM_CLOSED, "client closed inside a request")
            return False
        if self._reader.waiting_bytes:
            self._at_end = True
            return True
        self._keep_alive = False
        return True  # a client may half-close and still wait for its answer

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._on_closed(self)
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone(RequestFlag.DOWNSTREAM_CLOSED, "client disconnected")

    def pause_writing(self) -> None:
        self._blocked = True
        if self._exchange is not None:
            self._exchange.client_blocked(True)

    def resume_writing(self) -> None:
        self._blocked = False
        if self._exchange is not None:
            self._exchange.client_blocked(False)

    # --- request --------------------------------------------------------------------------------

    def _handle(self, events: list[RequestEvent]) -> None:
        for event in events:
            match event:
                case RequestHead():
                    self._begin(event)
                case Body():
                    if self._exchange is not None:
                        self._exchange.request_body(event.data)
                case End():
                    if self._exchange is not None:
                        self._exchange.request_end(event.trailers)
                case _:
                    assert_never(event)
        if self._exchange is not None:
            self._exchange.flush_request()

    def _begin(self, head: RequestHead) -> None:
        self._head = head
        self._responded = False
        self._keep_alive = head.keep_alive and not self._draining
        self._owes_continue = head.expects_continue
        self._exchange = self._exchanges.open(self, head, self._origin)
        if self._blocked:
            self._exchange.client_blocked(True)
        self._exchange.begin()

    def _refuse(self, error: MessageError) -> None:
        """Answer what cannot be parsed, then close: where the next message begins is unknown."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone(RequestFlag.DOWNSTREAM_PROTOCOL_ERROR, error.code)
        else:
            self._exchanges.refused(self._origin, self.protocol, error.status, error.code)
        transport = self._transport
        if transport is None:
            return
        self.write_now()
        if not self._responded or exchange is None:
            transport.write(error_page(error.status))
        self._linger()

    # --- response (Downstream) ------------------------------------------------------------------

    def inform(self, status: int, headers: Headers) -> None:
        if self._transport is None or self._head is None or self._head.minor == 0:
            return  # RFC 9110 §15.2: no 1xx for HTTP/1.0
        if status == 100:
            self._send_continue()
        else:
            self.write_now()
            self._transport.write(
                format_response(status, headers, Framing.NONE, None, keep_alive=True)
            )

    def _send_continue(self) -> None:
        if self._owes_continue and self._transport is not None:
            self._owes_continue = False
            self._transport.write(_CONTINUE)

    def respond(self, head: ResponseHead) -> None:
        """Raises `LocalProtocolError` if a field can't be written."""
        transport, request = self._transport, self._head
        if transport is None or request is None:
            return
        framing = head.framing
        if framing is Framing.UNTIL_CLOSE:
            framing = Framing.CHUNKED
        if framing is Framing.CHUNKED and request.minor == 0:
            framing = Framing.UNTIL_CLOSE
        if not self._reader.has_ended and not head.upgrade:
            self._keep_alive = False  # the rest of the request may never be read
        self._keep_alive = self._keep_alive and framing is not Framing.UNTIL_CLOSE
        block = format_response(
            head.status,
            head.headers,
            framing,
            head.length,
            keep_alive=self._keep_alive,
            upgrade=head.upgrade,
        )
        self._framing = framing
        self._responded = True
        self._out.append(block)
        if head.upgrade:
            self._switch()

    def _switch(self) -> None:
        self._keep_alive = False
        self._loop.call_soon(self._switch_reader)

    def _switch_reader(self) -> None:
        """Later than the call that told us: events of the reader must not nest."""
        if self._exchange is not None:
            self._handle(self._reader.switch())
            self._resume_transport()

    def send_body(self, data: bytes) -> None:
        self._out.append(encode_chunk(data) if self._framing is Framing.CHUNKED else data)
        if len(data) >= LARGE_BYTES:
            self.write_now()

    def flush(self) -> None:
        if self._out and not self._queued:
            self._queued = True
            self._flushes.add(self)

    def write_now(self) -> None:
        """Write what was collected."""
        self._queued = False
        out = self._out
        if out and self._transport is not None:
            data = out[0] if len(out) == 1 else b"".join(out)
            self._transport.write(data)
            out.clear()
            self._written += len(data)
            if self._write_timer is None and self._transport.get_write_buffer_size():
                self._watch_writing()

    def _watch_writing(self) -> None:
        """While something waits to be sent: look whether the client takes any of it."""
        taken = self._taken()
        self._write_timer = self._loop.call_later(
            self._limits.write_timeout_s, self._check_writing, taken
        )

    def _taken(self) -> int:
        waiting = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._written - waiting

    def _check_writing(self, before: int) -> None:
        self._write_timer = None
        transport = self._transport
        if transport is None or not transport.get_write_buffer_size():
            return
        if self._taken() != before:
            self._watch_writing()
            return
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone(RequestFlag.STREAM_IDLE, "http1.write_timeout")
        transport.abort()

    def send_end(self, trailers: Headers) -> None:
        transport = self._transport
        if transport is None:
            return
        if self._framing is Framing.CHUNKED:
            self._out.append(encode_last_chunk(trailers))
        self.flush()
        if self._framing is Framing.RAW:
            self._end_raw(transport)
            return
        self._exchange = None
        self._head = None
        if not self._keep_alive or not self._reader.has_ended:
            self._linger()
            return
        if self._reader.waiting_bytes:
            self._loop.call_soon(self._next_pipelined)
        else:
            self._reader.next_message()
            self._resume_transport()

    def _end_raw(self, transport: asyncio.Transport) -> None:
        self.write_now()
        if self._exchange is not None and transport.can_write_eof():
            transport.write_eof()

    def finish(self) -> None:
        self._exchange = None
        self.write_now()
        if self._transport is not None:
            self._transport.close()

    def _next_pipelined(self) -> None:
        """From the loop, not from the end of the answer before: no recursion by hostile depth."""
        if self._transport is None:
            return
        try:
            events = self._reader.next_message()
        except MessageError as error:
            self._refuse(error)
            return
        self._heard_at = self._loop.time()
        self._handle(events)
        if self._reader.has_ended and self._reader.waiting_bytes:
            return
        if self._at_end:
            self.write_now()
            if not self.eof_received() and self._transport is not None:
                self._transport.close()
            return
        self._resume_transport()

    def reset(self) -> None:
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not (self._reader.has_ended and self._reader.waiting_bytes):
            self._resume_transport()

    def _resume_transport(self) -> None:
        self._paused = False
        if self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()

    # --- ends -----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Close after the exchange under way, or now if there is none."""
        self._draining = True
        self._keep_alive = False
        if self._exchange is None and self._reader.is_idle and self._transport is not None:
            self.write_now()
            self._transport.close()

    def _linger(self) -> None:
        """Close so that the answer is read: a reset would make the client's kernel drop it
        (RFC 9112 §9.6)."""
        transport = self._transport
        if transport is None:
            return
        self._lingering = True
        self.write_now()
        if self._reader.has_ended and not self._reader.waiting_bytes:
            transport.close()
            return
        if transport.can_write_eof():
            transport.write_eof()
        self._resume_transport()
        self._loop.call_later(self._limits.linger_s, transport.close)

    def _check_time(self) -> None:
        """One timer per connection that looks at what is overdue and when to look again."""
        now = self._loop.time()
        limit = self._time_limit()
        if self._paused or limit is None:
            self._heard_at = now
            limit = limit or self._limits.body_timeout_s
        due = self._heard_at + limit
        if due > now:
            self._timer = self._loop.call_at(due, self._check_time)
            return
        self._timer = None
        if self._exchange is None and self._reader.is_idle:
            if self._transport is not None:
                self._transport.close()
            return
        self._refuse(MessageError(408, "http1.request_timeout", "the request stands still"))

    def _time_limit(self) -> float | None:
        """How long the client may say nothing now; None: it is not its turn."""
        if self._exchange is not None:
            reading = not self._reader.has_ended and not self._reader.is_raw
            return self._limits.body_timeout_s if reading else None
        idle = self._reader.is_idle
        return self._limits.downstream_idle_s if idle else self._limits.header_timeout_s
