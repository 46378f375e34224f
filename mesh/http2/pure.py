"""The portable engine: hyper-h2 behind the same contract.

`h2` parses, checks and counts windows. Here: a queue and turns for what waits to be sent, limits
against hostile peers, and GOAWAY, which `h2` takes for the end of the connection although streams
under way go on (RFC 9113 §6.8); it never gets to see one.
"""

from __future__ import annotations

import h2.connection
import h2.errors
import h2.events
import h2.exceptions
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import GoAwayFrame

from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.http2.contract import (
    DataReceived,
    Drained,
    Event,
    GoawayReceived,
    Headers,
    HeadersReceived,
    PingAcknowledged,
    SessionSettings,
    SettingsReceived,
    StreamEnded,
    StreamReset,
)
from mesh.http2.fields import check_fields, find_bad_field
from mesh.http2.framing import (
    CONTINUATION,
    FLAG_END_HEADERS,
    GOAWAY,
    HEADERS,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    SETTINGS,
    FrameSplitter,
    RawFrame,
    parse_goaway,
)
from mesh.http2.hyper import error_code, open_connection
from mesh.http2.limits import Allowance
from mesh.http2.outbox import StreamState, take_bytes, turn_bytes

_MAX_STREAMS = 0x7FFFFFFF


class PureSession:
    """An `Http2Session` on hyper-h2."""

    def __init__(self, settings: SessionSettings) -> None:
        self._client = settings.client
        self._h2 = open_connection(settings)
        self._splitter = FrameSplitter(
            max_frame_bytes=settings.max_frame_bytes, expect_preface=not settings.client
        )
        if not settings.client:
            self._h2.receive_data(PREFACE)
        self._allowance = Allowance(max_concurrent_streams=settings.max_concurrent_streams)
        self._streams: dict[int, StreamState] = {}
        # Insertion order is whose turn comes next.
        self._ready: dict[int, None] = {}
        self._out = bytearray(self._h2.data_to_send())
        self._pending: list[Event] = []
        self._last_peer_stream = 0
        self._refuse_above = _MAX_STREAMS
        self._pings = 0
        self._in_headers = False
        self._said: set[int] = set()
        self._ending = False
        self._failure = ""

    def receive(self, data: bytes | memoryview) -> list[Event]:
        if self._failure:
            raise RemoteProtocolError(self._failure)
        events: list[Event] = []
        try:
            for frame in self._splitter.feed(data):
                before = len(self._out)
                self._receive_frame(frame, events)
                self._flush()
                self._allowance.answered(len(self._out) - before)
        except (RemoteProtocolError, h2.exceptions.H2Error, HyperframeError) as error:
            self._fail(error)
            raise RemoteProtocolError(self._failure) from error
        return events

    def take_output(self, limit: int = 1 << 20) -> tuple[bytes, list[Event]]:
        events, self._pending = self._pending, []
        self._flush()
        while not self._failure and len(self._out) < limit:
            stream_id = next((i for i in self._ready if self._can_send(i)), None)
            if stream_id is None:
                break
            self._send_turn(stream_id, limit - len(self._out), events)
            self._flush()
        out = bytes(self._out)
        self._out.clear()
        self._allowance.output_taken()
        return out, events

    def send_request(self, headers: Headers, *, end_stream: bool = False) -> int:
        if self._failure or self._ending:
            raise LocalProtocolError("HTTP/2 request: the connection is ending")
        if len(self._streams) >= self.remote_max_streams:
            raise LocalProtocolError("HTTP/2 request: the peer takes no more streams now")
        check_fields(headers)
        try:
            stream_id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream_id, list(headers), end_stream=end_stream)
        except h2.exceptions.H2Error as error:
            raise LocalProtocolError(f"HTTP/2 request: {error}") from error
        self._streams[stream_id] = StreamState(end=end_stream, end_sent=end_stream)
        self._flush()
        return stream_id

    def send_headers(self, stream: int, headers: Headers, *, end_stream: bool = False) -> None:
        state = None if self._failure else self._streams.get(stream)
        if state is None:
            return
        check_fields(headers)
        if state.end:
            raise LocalProtocolError(f"HTTP/2 stream {stream}: headers after END_STREAM")
        if self._client or state.answered:
            self._queue_trailers(stream, state, headers, end_stream)
            return
        informational = bool(headers) and headers[0][1].startswith(b"1")
        self._send_headers(stream, headers, end_stream)
        if not informational:
            state.answered = True
            state.end = state.end_sent = end_stream
            self._close_if_done(stream, state)

    def send_data(self, stream: int, data: bytes, *, end_stream: bool = False) -> None:
        state = None if self._failure else self._streams.get(stream)
        if state is None:
            return
        if state.end:
            raise LocalProtocolError(f"HTTP/2 stream {stream}: data after END_STREAM")
        if not (self._client or state.answered):
            raise LocalProtocolError(f"HTTP/2 stream {stream}: data before the response")
        if data:
            state.queue.append(memoryview(data))
            state.unsent += len(data)
        state.end = end_stream
        if state.has_output:
            self._ready[stream] = None

    def unsent_bytes(self, stream: int) -> int:
        state = self._streams.get(stream)
        return state.unsent if state and not self._failure else 0

    def consume(self, stream: int, flow_bytes: int) -> None:
        if not self._failure and flow_bytes > 0:
            self._h2.acknowledge_received_data(flow_bytes, stream)
            self._flush()

    def widen(self, stream: int, more_bytes: int) -> None:
        if not self._failure and stream in self._streams:
            self._h2.increment_flow_control_window(more_bytes, stream)
            self._flush()

    def reset(self, stream: int, error_code: int) -> None:
        if not self._failure and stream in self._streams:
            self._h2.reset_stream(stream, error_code)
            self._forget(stream)
            self._flush()

    def stop(self, stream: int) -> None:
        state = self._streams.get(stream)
        if state is not None:
            state.stop = True
            self._close_if_done(stream, state)

    def ping(self, payload: bytes) -> None:
        if len(payload) != 8:
            raise LocalProtocolError("HTTP/2: a PING carries eight bytes")
        if not self._failure:
            self._pings += 1
            self._h2.ping(payload)
            self._flush()

    def goaway(self, error_code: int = 0, *, graceful: bool = False) -> None:
        if self._failure:
            return
        # A client takes no streams of the peer, so it has nothing to announce.
        if graceful and not self._client:
            self._write_goaway(_MAX_STREAMS, 0)
        else:
            self._ending = True
            self._refuse_above = self._last_peer_stream
            self._write_goaway(self._last_peer_stream, error_code)

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    @property
    def remote_max_streams(self) -> int:
        return min(self._h2.remote_settings.max_concurrent_streams, _MAX_STREAMS)

    @property
    def remote_extended_connect(self) -> bool:
        return bool(self._h2.remote_settings.enable_connect_protocol)

    @property
    def wants_output(self) -> bool:
        if self._out:
            return True
        return not self._failure and any(self._can_send(stream) for stream in self._ready)

    def _receive_frame(self, frame: RawFrame, events: list[Event]) -> None:
        if frame.kind == CONTINUATION:
            self._allowance.continuation()
        else:
            self._allowance.continuations = 0
        if frame.kind in self._said or frame.kind == PRIORITY or frame.kind > CONTINUATION:
            self._allowance.idle_frame()
        self._said |= {frame.kind} & {SETTINGS, GOAWAY}
        if frame.kind == GOAWAY and frame.stream == 0 and not self._in_headers:
            self._receive_goaway(frame.raw, events)
            return
        for event in self._h2.receive_data(frame.raw):
            self._translate(event, events)
        if frame.kind in (HEADERS, PUSH_PROMISE, CONTINUATION):
            self._in_headers = not frame.flags & FLAG_END_HEADERS

    def _receive_goaway(self, raw: bytes, events: list[Event]) -> None:
        last_stream, code = parse_goaway(raw)
        self._ending = True
        events.append(GoawayReceived(last_stream, code))
        if not self._client:
            return
        for stream in [i for i in self._streams if i > last_stream]:
            self._forget(stream)
            events.append(StreamReset(stream, int(h2.errors.ErrorCodes.REFUSED_STREAM)))

    def _translate(self, event: h2.events.Event, events: list[Event]) -> None:
        match event:
            case h2.events.DataReceived():
                self._receive_data(event, events)
            case (
                h2.events.RequestReceived()
                | h2.events.ResponseReceived()
                | h2.events.InformationalResponseReceived()
                | h2.events.TrailersReceived()
            ):
                self._receive_headers(event, events)
            case h2.events.StreamEnded():
                state = self._streams.get(event.stream_id)
                if state is not None:
                    state.remote_ended = True
                    events.append(StreamEnded(event.stream_id))
                    self._close_if_done(event.stream_id, state)
            case h2.events.StreamReset():
                self._receive_reset(event, events)
            case h2.events.RemoteSettingsChanged():
                if SettingsReceived() not in events:
                    events.append(SettingsReceived())
            case h2.events.PingAckReceived():
                self._receive_pong(event.ping_data, events)
            case _:
                pass  # windows, acknowledgements: `h2` keeps the books

    def _receive_headers(
        self,
        event: h2.events.RequestReceived
        | h2.events.ResponseReceived
        | h2.events.InformationalResponseReceived
        | h2.events.TrailersReceived,
        events: list[Event],
    ) -> None:
        stream = event.stream_id
        if isinstance(event, h2.events.RequestReceived):
            if stream > self._refuse_above:
                self._h2.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
                return
            self._streams[stream] = StreamState()
            self._last_peer_stream = stream
        state = self._streams.get(stream)
        if state is None:
            return
        if isinstance(event, h2.events.InformationalResponseReceived):
            self._allowance.idle_frame()
            ended = False
        else:
            self._allowance.useful_frame()
            ended = event.stream_ended is not None
            state.answered = state.answered or self._client
        fields = [(bytes(name), bytes(value)) for name, value in event.headers]
        if (bad := find_bad_field(fields)) is not None:
            raise RemoteProtocolError(f"HTTP/2: bad header field {bad!r}")
        events.append(HeadersReceived(stream, fields, ended))

    def _receive_data(self, event: h2.events.DataReceived, events: list[Event]) -> None:
        if event.data:
            self._allowance.useful_frame()
        elif event.stream_ended is None:
            self._allowance.idle_frame()
        flow_bytes = event.flow_controlled_length
        if event.stream_id not in self._streams or not event.data:
            self.consume(event.stream_id, flow_bytes)
            return
        events.append(DataReceived(event.stream_id, event.data, flow_bytes))

    def _receive_reset(self, event: h2.events.StreamReset, events: list[Event]) -> None:
        state = self._streams.get(event.stream_id)
        if state is None:
            return
        if not event.remote_reset or not (self._client or state.answered):
            self._allowance.bad_end()
        events.append(StreamReset(event.stream_id, int(event.error_code), event.remote_reset))
        self._forget(event.stream_id)

    def _receive_pong(self, payload: bytes, events: list[Event]) -> None:
        if not self._pings:
            self._allowance.idle_frame()
            return
        self._pings -= 1
        events.append(PingAcknowledged(payload))

    def _can_send(self, stream: int) -> bool:
        state = self._streams[stream]
        return not state.queue or self._h2.local_flow_control_window(stream) > 0

    def _send_turn(self, stream: int, room: int, events: list[Event]) -> None:
        """Send one frame of the stream whose turn it is."""
        state = self._streams[stream]
        most = min(self._h2.max_outbound_frame_size, self._h2.local_flow_control_window(stream))
        size = turn_bytes(room, most, state.unsent, alone=len(self._ready) == 1)
        payload = take_bytes(state.queue, size)
        state.unsent -= size
        del self._ready[stream]
        last = state.end and not state.queue
        if payload or (last and state.trailers is None):
            self._h2.send_data(stream, payload, end_stream=last and state.trailers is None)
            self._allowance.useful_frame()
        if not state.queue:
            events.append(Drained(stream))
        if last:
            if state.trailers is not None:
                self._send_headers(stream, state.trailers, True)
            state.end_sent = True
            self._close_if_done(stream, state)
        elif state.queue:
            self._ready[stream] = None

    def _queue_trailers(
        self, stream: int, state: StreamState, headers: Headers, end_stream: bool
    ) -> None:
        if not end_stream:
            raise LocalProtocolError(f"HTTP/2 stream {stream}: trailers must end the stream")
        state.end = True
        if state.queue:
            state.trailers = list(headers)
            return
        self._ready.pop(stream, None)
        self._send_headers(stream, headers, True)
        state.end_sent = True
        self._pending.append(Drained(stream))
        self._close_if_done(stream, state)

    def _send_headers(self, stream: int, headers: Headers, end_stream: bool) -> None:
        try:
            self._h2.send_headers(stream, list(headers), end_stream=end_stream)
        except h2.exceptions.H2Error as error:
            raise LocalProtocolError(f"HTTP/2 stream {stream}: {error}") from error
        self._flush()

    def _flush(self) -> None:
        self._out += self._h2.data_to_send()

    def _write_goaway(self, last_stream: int, error_code: int) -> None:
        frame = GoAwayFrame(0, last_stream_id=last_stream, error_code=error_code)
        self._out += frame.serialize()

    def _close_if_done(self, stream: int, state: StreamState) -> None:
        if state.remote_ended and state.end_sent:
            if state.answered:
                self._allowance.answered_stream_ended()
            self._forget(stream)
        elif state.stop and state.end_sent:
            self.reset(stream, int(h2.errors.ErrorCodes.NO_ERROR))

    def _forget(self, stream: int) -> None:
        self._ready.pop(stream, None)
        self._streams.pop(stream, None)

    def _fail(self, error: Exception) -> None:
        self._failure = f"HTTP/2: {error}".replace("HTTP/2: HTTP/2: ", "HTTP/2: ")
        # `h2` has left a GOAWAY of its own if the error is its own.
        answer = self._h2.data_to_send()
        self._out += answer
        if isinstance(error, h2.exceptions.ProtocolError) and answer:
            return
        self._write_goaway(self._last_peer_stream, error_code(error))
