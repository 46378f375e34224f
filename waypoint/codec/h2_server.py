"""HTTP/2 towards the client: one exchange per stream."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable
from secrets import token_bytes

from mesh.errors import LocalProtocolError
from mesh.http1.message import CONNECT, Framing, Headers, MessageError, ResponseHead
from mesh.http2.contract import (
    DataReceived,
    Drained,
    Event,
    GoawayReceived,
    HeadersReceived,
    RequestReturned,
    RequestTold,
    StreamEnded,
    StreamReset,
)
from mesh.http2.contract import Headers as Fields
from mesh.model.request import RequestFlag
from waypoint.codec.h2_head import read_request, response_fields
from waypoint.codec.h2_lane_seam import SessionLane
from waypoint.codec.h2_link import CANCEL, INTERNAL_ERROR, NO_ERROR, Http2Link
from waypoint.codec.h2_standstill import Standstill
from waypoint.codec.local_reply import is_grpc, reply
from waypoint.contract import Exchanges, Origin, RequestSink
from waypoint.limits import ProxyLimits


class ServerStream:
    """`waypoint.contract.Downstream` of one stream."""

    __slots__ = (
        "_asks", "_blocked", "_early", "_ended", "_heard_at", "_link", "_owed", "_paused", "_raw",
        "exchange", "id", "may_be_silent", "request_over",
    )  # fmt: skip
    protocol = "HTTP/2"

    def __init__(self, link: Http2Server, stream_id: int) -> None:
        self._link = link
        self.id = stream_id
        self.exchange: RequestSink | None = None
        self.request_over = False
        self.may_be_silent = False
        """A call of gRPC, or one that is being answered."""
        self._heard_at = link.now()
        self._paused = self._blocked = self._ended = False
        self._asks = self._raw = False
        self._early: list[bytes] = []
        self._owed = 0

    def inform(self, status: int, headers: Headers) -> None:
        fields: Fields = [(b":status", b"%d" % status), *headers]
        self._link.session.send_headers(self.id, fields)
        self.flush()

    def ask_upgrade(self) -> None:
        """What comes from now on belongs to another protocol, once the server agrees."""
        self._asks = True
        if self.exchange is not None:
            self.exchange.request_end([])

    def _switch(self, head: ResponseHead) -> None:
        """RFC 8441 §5: 200 instead of 101, and nothing of the key exchange."""
        kept = [item for item in head.headers if item[0] != b"sec-websocket-accept"]
        status = 200 if head.status == 101 else head.status
        self._link.session.send_headers(self.id, [(b":status", b"%d" % status), *kept])
        self._raw = True
        self._link.soon(self._pass_early)

    def _pass_early(self) -> None:
        """Later than the call that told us: events of the exchange must not nest."""
        early, self._early = self._early, []
        if self.exchange is not None:
            for data in early:
                self.exchange.request_body(data)
            if self.request_over:
                self.exchange.request_end([])
            self.exchange.flush_request()
        self.give_back()

    def respond(self, head: ResponseHead) -> None:
        """Raises `LocalProtocolError` if a field can't be sent."""
        self._asks = False
        self.may_be_silent = True
        if head.upgrade:
            self._switch(head)
            return
        bodiless = head.framing is Framing.NONE
        self._link.session.send_headers(self.id, response_fields(head), end_stream=bodiless)
        if bodiless:
            self._ended = True

    def send_body(self, data: bytes) -> None:
        session = self._link.session
        session.send_data(self.id, data)
        if not self._blocked and self._link.is_behind(self.id):
            self._blocked = True
            if self.exchange is not None:
                self.exchange.client_blocked(True)

    def send_end(self, trailers: Headers) -> None:
        if self._raw:  # only this direction
            self._link.session.send_data(self.id, b"", end_stream=True)
            self.flush()
            return
        self.exchange = None
        if not self._ended:
            if trailers:
                self._link.session.send_headers(self.id, trailers, end_stream=True)
            else:
                self._link.session.send_data(self.id, b"", end_stream=True)
        self._link.stream_over(self)

    def finish(self) -> None:
        self.exchange = None
        self._link.stream_over(self)

    def flush(self) -> None:
        self._link.schedule_flush()

    def reset(self) -> None:
        self.exchange = None
        self._link.session.reset(self.id, INTERNAL_ERROR)
        self._link.stream_over(self)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._heard_at = self._link.now()
        self.give_back()

    def give_back(self) -> None:
        """Credit for what came while reading was paused; it is the whole connection's, too."""
        owed, self._owed = self._owed, 0
        if owed:
            self._link.session.consume(self.id, owed)
            self._link.schedule_flush()

    # --- events of the link ---------------------------------------------------------------------

    def is_silent(self, now: float, limit_s: float) -> bool:
        """Whether the rest of the request is awaited for so long."""
        its_turn = self.exchange is not None and not self.request_over and not self._paused
        return its_turn and not self.may_be_silent and now - self._heard_at >= limit_s

    def data_received(self, data: bytes, flow_bytes: int) -> None:
        self._heard_at = self._link.now()
        if self._asks or self._early:
            self._early.append(data)
            self._owed += flow_bytes  # no credit yet: the window bounds what is kept
            return
        if self.exchange is not None and data:
            self.exchange.request_body(data)
        if self._paused and self.exchange is not None:
            self._owed += flow_bytes
        else:
            self._link.session.consume(self.id, flow_bytes)

    def drained(self) -> None:
        if self._blocked:
            self._blocked = False
            if self.exchange is not None:
                self.exchange.client_blocked(False)

    def request_ended(self, trailers: Headers) -> None:
        if not self.request_over:
            self.request_over = True
            if self.exchange is not None and not self._asks and not self._early:
                self.exchange.request_end(trailers)

    def gone(self, detail: str, flag: RequestFlag = RequestFlag.DOWNSTREAM_CLOSED) -> None:
        exchange, self.exchange = self.exchange, None
        self.give_back()
        if exchange is not None:
            exchange.client_gone(flag, detail)


class Http2Server(Http2Link):
    """The protocol of a client's transport."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        exchanges: Exchanges,
        origin: Origin,
        limits: ProxyLimits,
        on_closed: Callable[[Http2Server], None],
        lane: SessionLane | None = None,
    ) -> None:
        super().__init__(loop, limits, client=False)
        self._origin = origin
        self._exchanges = exchanges
        self._on_closed = on_closed
        self._streams: dict[int, ServerStream] = {}
        self._touched: list[ServerStream] = []
        self._draining = self._closing = False
        self._standstill = Standstill(loop, limits, self)
        self._timer = loop.call_later(limits.downstream_idle_s, self._check_idle)
        if lane is not None:
            lane.enter(self)

    @property
    def origin(self) -> Origin:
        return self._origin

    @property
    def is_ending(self) -> bool:
        return self._draining

    @property
    def _is_busy(self) -> bool:
        """Also while answers wait to be sent that nobody adds anything to."""
        return bool(self._streams) or self.session.open_streams > 0

    def is_behind(self, stream_id: int) -> bool:
        """Whether more waits for the client than it should."""
        return self.session.unsent_bytes(stream_id) > self._limits.high_water_bytes

    def handle(self, event: Event) -> None:
        kind = type(event)
        if kind is HeadersReceived:
            self._headers_received(event)  # type: ignore[arg-type] # narrowed by `kind`
            return
        if kind is GoawayReceived:
            self._client_leaves()
            return
        if isinstance(event, RequestReturned | RequestTold):
            self._lane_says(event)
            return
        stream = self._streams.get(getattr(event, "stream", 0))
        if isinstance(event, DataReceived):
            if stream is None:
                self.session.consume(event.stream, event.flow_bytes)
            else:
                stream.data_received(event.data, event.flow_bytes)
        elif stream is None:
            return
        elif isinstance(event, StreamEnded):
            stream.request_ended([])
        elif isinstance(event, Drained):
            stream.drained()
        elif isinstance(event, StreamReset):
            self._streams.pop(stream.id, None)
            stream.gone("client reset the stream")
        self._touch(stream)

    def _touch(self, stream: ServerStream | None) -> None:
        if stream is not None and stream.exchange is not None and stream not in self._touched:
            self._touched.append(stream)

    def batch_over(self) -> None:
        touched, self._touched = self._touched, []
        for stream in touched:
            if stream.exchange is not None:
                stream.exchange.flush_request()

    def _headers_received(self, event: HeadersReceived) -> None:
        known = self._streams.get(event.stream)
        if known is not None:
            known.request_ended([item for item in event.headers if item[0][:1] != b":"])
            self._touch(known)
            return
        stream = ServerStream(self, event.stream)
        try:
            head = read_request(event.headers, event.end_stream, self._limits.message.fields)
        except MessageError as error:
            self._refuse(stream, error)
            return
        self._streams[event.stream] = stream
        if head.upgrade and head.upgrade != CONNECT:  # HTTP/1.1 wants a key (RFC 6455 §4.1)
            head.headers.append((b"sec-websocket-key", b64encode(token_bytes(16))))
        stream.may_be_silent = bool(head.upgrade) or is_grpc(head)
        stream.exchange = exchange = self._exchanges.open(stream, head, self._origin)
        exchange.begin()
        if head.upgrade:
            stream.ask_upgrade()
        self._touch(stream)
        if event.unknown and self.lane is not None:
            self.lane.learn(self, event, exchange)

    def _lane_says(self, event: RequestReturned | RequestTold) -> None:
        assert self.lane is not None
        if isinstance(event, RequestTold):
            self.lane.told(self, event.request)
            return
        stream = self._streams[event.stream] = ServerStream(self, event.stream)
        stream.request_over = event.request.is_over
        self.lane.resume(self, stream, event)

    def _refuse(self, stream: ServerStream, error: MessageError) -> None:
        self._exchanges.refused(self._origin, stream.protocol, error.status, error.code)
        self._reply(stream, error.status)

    def _reply(self, stream: ServerStream, status: int) -> None:
        head, _ = reply(status, "", grpc=False)  # which has no body
        try:
            stream.respond(head)
        except LocalProtocolError:
            self.session.reset(stream.id, INTERNAL_ERROR)
            return
        self.session.stop(stream.id)
        self.schedule_flush()

    def streams(self) -> list[ServerStream]:
        """Requests under way that are Python's."""
        return list(self._streams.values())

    def stuck(self, stream_id: int) -> None:
        """The client takes nothing of an answer."""
        stream = self._streams.pop(stream_id, None)
        if self.lane is None or not self.lane.cut_stream(self, stream_id):
            self.session.reset(stream_id, CANCEL)
        if stream is not None:
            stream.gone("http2.write_timeout", RequestFlag.STREAM_IDLE)
        self.schedule_flush()

    def time_out(self, stream: ServerStream) -> None:
        """The client does not go on with a request."""
        self._streams.pop(stream.id, None)
        stream.gone("http2.request_timeout", RequestFlag.DOWNSTREAM_PROTOCOL_ERROR)
        self._reply(stream, 408)

    def give_up(self) -> None:
        """The client reads nothing at all."""
        if self.lane is not None:
            self.lane.cut_streams(self)
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.gone("http2.write_timeout", RequestFlag.STREAM_IDLE)
        if self._transport is not None:
            self._transport.abort()

    def stream_over(self, stream: ServerStream) -> None:
        """Our side is done; the client need not send the rest (RFC 9113 §8.1)."""
        stream.give_back()
        if self._streams.pop(stream.id, None) is not None and not stream.request_over:
            self.session.stop(stream.id)
        self.schedule_flush()

    def flushed(self) -> None:
        """Close what is ending, once nothing is under way."""
        if self._draining and not self._is_busy and not self._closing:
            self._closing = True
            self._loop.call_soon(self._close_drained)

    def after_lane(self) -> None:
        self.flushed()

    def lost(self, detail: str) -> None:
        self._timer.cancel()
        self._standstill.stop()
        self._on_closed(self)
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.gone(detail)

    def soon(self, call: Callable[[], None]) -> None:
        self._loop.call_soon(call)

    def now(self) -> float:
        return self._loop.time()

    def _client_leaves(self) -> None:
        """No stream follows a client's GOAWAY: close when those under way are done."""
        self._draining = True
        self.flushed()

    def drain(self) -> None:
        """GOAWAY; close when the streams under way are done."""
        self._draining = True
        self.session.goaway(NO_ERROR)
        self.schedule_flush()
        self.flushed()

    def _close_drained(self) -> None:
        self.flush_now()
        if self._write_blocked and self.session.wants_output:
            self._closing = False  # with the next flush
            return
        self.close()

    def _check_idle(self) -> None:
        due = self.heard_at + self._limits.downstream_idle_s
        if self._is_busy or due > self._loop.time():
            wait = max(1.0, due - self._loop.time())
            self._timer = self._loop.call_later(wait, self._check_idle)
            return
        self.session.goaway(NO_ERROR)
        self._close_drained()
