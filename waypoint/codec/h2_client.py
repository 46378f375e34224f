"""HTTP/2 towards a server: many requests on one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mesh.errors import LocalProtocolError
from mesh.http1.message import CONNECT, Framing, Headers, MessageError, RequestHead
from mesh.http2.contract import (
    DataReceived,
    Drained,
    Event,
    GoawayReceived,
    HeadersReceived,
    SettingsReceived,
    StreamEnded,
    StreamReset,
)
from mesh.model.request import RequestFlag
from waypoint.codec.h2_head import WEBSOCKET, read_response, request_fields, switched
from waypoint.codec.h2_link import CANCEL, NO_ERROR, REFUSED_STREAM, Http2Link
from waypoint.contract import Failure, FailureKind, ResponseSink
from waypoint.limits import ProxyLimits


class ClientStream:
    """`waypoint.contract.UpstreamStream` of one request."""

    __slots__ = (
        "_blocked", "_link", "_over", "_owed", "_paused", "_sent", "heard", "id", "is_head",
        "request", "sink",
    )  # fmt: skip

    def __init__(self, link: Http2Client, stream_id: int, head: RequestHead, sink: ResponseSink):
        self._link = link
        self.id = stream_id
        self.sink: ResponseSink | None = sink
        self.is_head = head.method == b"HEAD"
        self.heard = False
        self.request = head
        self._sent = head.framing is Framing.NONE and not head.upgrade
        self._over = False
        self._blocked = self._paused = False
        self._owed = 0

    def send_body(self, data: bytes) -> None:
        self._link.session.send_data(self.id, data)
        if not self._blocked and self._link.is_behind(self.id):
            self._blocked = True
            if self.sink is not None:
                self.sink.upstream_blocked(True)

    def send_end(self, trailers: Headers) -> None:
        if self._sent:
            return
        self._sent = True
        if trailers:
            self._link.session.send_headers(self.id, trailers, end_stream=True)
        else:
            self._link.session.send_data(self.id, b"", end_stream=True)
        self.flush()
        if self._over:
            self.sink = None
            self._link.forget(self, None)

    def flush(self) -> None:
        self._link.schedule_flush()

    def cancel(self) -> None:
        if self.sink is not None:
            self.sink = None
            self._give_back()
            self._link.forget(self, CANCEL)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._give_back()

    def _give_back(self) -> None:
        """Credit for what came while reading was paused; it is the whole connection's, too."""
        owed, self._owed = self._owed, 0
        if owed:
            self._link.session.consume(self.id, owed)
            self._link.schedule_flush()

    # --- events of the link ---------------------------------------------------------------------

    def data_received(self, data: bytes, flow_bytes: int) -> None:
        if self.sink is not None and data:
            self.sink.response_body(data)
        if self._paused and self.sink is not None:
            self._owed += flow_bytes
        else:
            self._link.session.consume(self.id, flow_bytes)

    def drained(self) -> None:
        if self._blocked:
            self._blocked = False
            if self.sink is not None:
                self.sink.upstream_blocked(False)

    def ended(self, trailers: Headers) -> None:
        sink = self.sink
        if sink is None:
            return
        self._give_back()
        if self.request.upgrade and self.heard and not self._sent and not self._over:
            self._over = True  # the other direction of a tunnel goes on
            sink.response_end(trailers)
            return
        self.sink = None
        self._link.forget(self, None if self._sent else NO_ERROR)
        sink.response_end(trailers)

    def failed(self, kind: FailureKind, flag: RequestFlag, detail: str) -> None:
        sink, self.sink = self.sink, None
        self._give_back()
        if sink is not None:
            sink.upstream_failed(Failure(kind=kind, flag=flag, detail=detail))


def _nobody_waits() -> None: ...


class Http2Client(Http2Link):
    """A server's connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: ProxyLimits,
        on_closed: Callable[[Http2Client], None],
    ) -> None:
        super().__init__(loop, limits, client=True)
        self._on_closed = on_closed
        self._streams: dict[int, ClientStream] = {}
        self._touched: set[ClientStream] = set()
        self._going_away = False
        self._answered = 0
        self.on_free: Callable[[], None] = _nobody_waits
        """Told when a stream has ended or the server's SETTINGS came: others may begin."""
        self.is_settled = False
        self.idle_since = loop.time()

    @property
    def can_open(self) -> bool:
        # What a server takes is known once its SETTINGS came; before that one, which may fail.
        limit = min(self._limits.max_streams, self.session.remote_max_streams)
        limit = limit if self.is_settled else 1
        return self.is_open and not self._going_away and self.open_streams < limit

    @property
    def is_ending(self) -> bool:
        return self._going_away

    @property
    def can_serve(self) -> bool:
        return self.is_open and not self._going_away

    @property
    def takes_upgrades(self) -> bool:
        """Whether the server takes extended CONNECT (RFC 8441); known once it `is_settled`."""
        return self.session.remote_extended_connect

    @property
    def open_streams(self) -> int:
        return len(self._streams) if self.lane is None else self.session.open_streams

    def is_behind(self, stream_id: int) -> bool:
        return self.session.unsent_bytes(stream_id) > self._limits.high_water_bytes

    def open(self, head: RequestHead, sink: ResponseSink) -> ClientStream:
        """Send a request's head. Raises `LocalProtocolError`; nothing was sent then."""
        if head.upgrade and head.upgrade != CONNECT and not self.takes_upgrades:
            raise LocalProtocolError("an upgrade cannot be asked of this HTTP/2 server")
        end = head.framing is Framing.NONE and not head.upgrade
        stream_id = self.session.send_request(request_fields(head), end_stream=end)
        stream = self._streams[stream_id] = ClientStream(self, stream_id, head, sink)
        self.schedule_flush()
        return stream

    def forget(self, stream: ClientStream, error_code: int | None) -> None:
        """A stream is over for us; `error_code`: tell the server so."""
        self._streams.pop(stream.id, None)
        self.idle_since = self._loop.time()
        if error_code is not None:
            self.session.reset(stream.id, error_code)
            self.schedule_flush()
        self.close_if_done()

    def flushed(self) -> None:
        """Nothing depends on it: a stream of ours is over with its answer."""

    def close_if_done(self) -> None:
        """Close what is ending, once nothing is under way."""
        if self._going_away and not self.open_streams:
            self._loop.call_soon(self.close)
        self.on_free()

    def after_lane(self) -> None:
        self.idle_since = self._loop.time()
        self.close_if_done()
        self.on_free()

    def close(self) -> None:
        if self.lane is not None:
            self.lane.retire(self)
        super().close()

    def handle(self, event: Event) -> None:
        if isinstance(event, GoawayReceived):
            self._going_away = True
            return
        if isinstance(event, SettingsReceived):
            self.is_settled = True
            self.on_free()
            return
        stream = self._streams.get(getattr(event, "stream", 0))
        if stream is None:
            if isinstance(event, DataReceived):
                self.session.consume(event.stream, event.flow_bytes)
            return
        self._touched.add(stream)
        if isinstance(event, DataReceived):
            stream.data_received(event.data, event.flow_bytes)
        elif isinstance(event, HeadersReceived):
            self._headers_received(stream, event)
        elif isinstance(event, StreamEnded):
            stream.ended([])
        elif isinstance(event, Drained):
            stream.drained()
        elif isinstance(event, StreamReset):
            self._reset_received(stream, event)

    def _headers_received(self, stream: ClientStream, event: HeadersReceived) -> None:
        sink = stream.sink
        if sink is None:
            return
        if stream.heard:
            stream.ended(list(event.headers))
            return
        try:
            upgrade = stream.request.upgrade
            head = read_response(
                event.headers, event.end_stream, is_head=stream.is_head, upgrade=upgrade
            )
        except MessageError as error:
            self._streams.pop(stream.id, None)
            self.session.reset(stream.id, CANCEL)
            flag = RequestFlag.UPSTREAM_PROTOCOL_ERROR
            stream.failed(FailureKind.MAY_BE_DELIVERED, flag, error.code)
            return
        if head.status < 200:
            sink.informed(head)
            return
        stream.heard = True
        self._answered += 1
        if head.upgrade == WEBSOCKET:
            head = switched(head, stream.request)
        sink.responded(head)

    def _reset_received(self, stream: ClientStream, event: StreamReset) -> None:
        self._streams.pop(stream.id, None)
        if not event.remote:
            flag, kind = RequestFlag.UPSTREAM_PROTOCOL_ERROR, FailureKind.MAY_BE_DELIVERED
        elif event.error_code == REFUSED_STREAM and not stream.heard:  # RFC 9113 §8.7
            flag, kind = RequestFlag.UPSTREAM_CLOSED, FailureKind.NEVER_SENT
        else:
            flag, kind = RequestFlag.UPSTREAM_CLOSED, FailureKind.MAY_BE_DELIVERED
        stream.failed(kind, flag, f"stream reset by the server ({event.error_code})")
        self.on_free()

    def batch_over(self) -> None:
        touched, self._touched = self._touched, set()
        for stream in touched:
            if stream.sink is not None:
                stream.sink.flush_response()

    def lost(self, detail: str) -> None:
        self._on_closed(self)
        streams, self._streams = self._streams, {}
        reused = self._answered > 0
        for stream in streams.values():
            kind = (
                FailureKind.NO_ANSWER_REUSED
                if reused and not stream.heard
                else FailureKind.MAY_BE_DELIVERED
            )
            stream.failed(kind, RequestFlag.UPSTREAM_CLOSED, detail)
