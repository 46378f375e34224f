"""The compiled engine: libnghttp2 behind a C shim that turns callbacks into batches (shim.h).

One call into C per `receive()` and per `take_output()`; Python only builds the event objects.
A session is not thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from mesh.http2.contract import (
    DataReceived,
    Drained,
    Event,
    GoawayReceived,
    Headers,
    HeadersReceived,
    LaneRequest,
    PingAcknowledged,
    RequestReturned,
    RequestTold,
    SessionSettings,
    SettingsReceived,
    StreamEnded,
    StreamReset,
)

try:
    from mesh.http2._nghttp2 import ffi, lib
except ImportError as error:
    raise ConfigError(
        f"the compiled HTTP/2 engine cannot be loaded ({error}); install libnghttp2-dev and a C "
        "compiler and run `python -m mesh.http2.build_nghttp2`, or choose the engine `h2`"
    ) from error

_HEADERS = int(lib.MN_EVENT_HEADERS)
_DATA = int(lib.MN_EVENT_DATA)
_END = int(lib.MN_EVENT_END)
_RESET = int(lib.MN_EVENT_RESET)
_SETTINGS = int(lib.MN_EVENT_SETTINGS)
_PONG = int(lib.MN_EVENT_PONG)
_GOAWAY = int(lib.MN_EVENT_GOAWAY)
_RETURNED = int(lib.MN_EVENT_RETURNED)
_TOLD = int(lib.MN_EVENT_TOLD)
_END_FLAG = int(lib.MN_HEADERS_END)
_UNKNOWN_FLAG = int(lib.MN_HEADERS_UNKNOWN)
_UNSIGNED = 0xFFFFFFFF
_LONG_BYTES = 32 * 1024
"""Output from which on a copy costs more than an object that owns the memory."""


def pack_headers(headers: Headers) -> bytes:
    """Names and values joined by NUL; the shim counts them, so a NUL inside is noticed."""
    return b"\0".join([part for header in headers for part in header])


def unpack_headers(text: bytes) -> Headers:
    """Fields of a text in which each part ends with NUL."""
    if not text:
        return []
    parts = text[:-1].split(b"\0")
    return list(zip(parts[::2], parts[1::2], strict=True))


class Nghttp2Session:
    """An `Http2Session` on libnghttp2."""

    __slots__ = ("_batch", "_held", "_token", "raw")

    def __init__(self, settings: SessionSettings) -> None:
        raw = ffi.new(
            "mn_settings *",
            {
                "client": settings.client,
                "stream_window": settings.stream_window_bytes,
                "connection_window": settings.connection_window_bytes,
                "max_frame": settings.max_frame_bytes,
                "max_header_list": settings.max_header_list_bytes,
                "max_concurrent_streams": settings.max_concurrent_streams,
                "extended_connect": settings.extended_connect,
                "ahead": settings.ahead_bytes,
            },
        )
        session = lib.mn_new(raw)
        if session == ffi.NULL:
            raise ConfigError(f"HTTP/2 settings outside of the protocol's limits: {settings}")
        self.raw = ffi.gc(session, lib.mn_free)
        self._batch = lib.mn_batch_of(session)
        # Payload that C refers to, by token: it must not move or go before it became frames.
        self._held: dict[int, object] = {}
        self._token = 0

    def receive(self, data: bytes | memoryview) -> list[Event]:
        failed = lib.mn_receive(self.raw, ffi.from_buffer("uint8_t[]", data), len(data))
        batch = self._batch
        if batch.released_len:
            self._release(batch)
        if failed:
            raise RemoteProtocolError(f"HTTP/2: {self._error()}")
        return self._events(batch, data) if batch.events_len else []

    def take_output(self, limit: int = 1 << 20) -> tuple[bytes, list[Event]]:
        lib.mn_take(self.raw, limit)
        batch = self._batch
        out = ffi.buffer(batch.out, batch.out_len)[:] if batch.out_len else b""
        if batch.released_len:
            self._release(batch)
        return out, self._events(batch, b"") if batch.events_len else []

    def take_buffer(self, limit: int) -> tuple[bytes | memoryview, list[Event]]:
        """As `take_output`; what is long is not copied."""
        lib.mn_take(self.raw, limit)
        batch = self._batch
        size = batch.out_len
        out: bytes | memoryview = b""
        if size >= _LONG_BYTES:
            owned = ffi.gc(lib.mn_detach(self.raw), lib.mn_free_output, size)
            out = memoryview(ffi.buffer(owned, size))
        elif size:
            out = ffi.buffer(batch.out, size)[:]
        if batch.released_len:
            self._release(batch)
        return out, self._events(batch, b"") if batch.events_len else []

    def send_request(self, headers: Headers, *, end_stream: bool = False) -> int:
        text = pack_headers(headers)
        stream: int = lib.mn_request(self.raw, text, len(text), len(headers), end_stream)
        if stream < 0:
            raise LocalProtocolError(f"HTTP/2 request: {self._error()}")
        return stream

    def send_headers(self, stream: int, headers: Headers, *, end_stream: bool = False) -> None:
        text = pack_headers(headers)
        if lib.mn_headers(self.raw, stream, text, len(text), len(headers), end_stream):
            raise LocalProtocolError(f"HTTP/2 stream {stream}: {self._error()}")

    def send_data(self, stream: int, data: bytes, *, end_stream: bool = False) -> None:
        self._token += 1
        pinned = ffi.from_buffer(data)
        kept = lib.mn_send_data(self.raw, stream, pinned, len(data), self._token, end_stream)
        if kept > 0:
            self._held[self._token] = pinned
        elif kept < 0:
            raise LocalProtocolError(f"HTTP/2 stream {stream}: {self._error()}")

    def unsent_bytes(self, stream: int) -> int:
        return int(lib.mn_unsent(self.raw, stream))

    def consume(self, stream: int, flow_bytes: int) -> None:
        lib.mn_consume(self.raw, stream, flow_bytes)

    def widen(self, stream: int, more_bytes: int) -> None:
        lib.mn_widen(self.raw, stream, more_bytes)

    def reset(self, stream: int, error_code: int) -> None:
        lib.mn_reset(self.raw, stream, error_code)

    def stop(self, stream: int) -> None:
        lib.mn_stop(self.raw, stream)

    def stuck(self, now: float, limit_s: float) -> list[int]:
        """Streams whose peer takes nothing of what waits for it, for so long. Call it some times in
        `limit_s`, of which the first one begins to look."""
        room = max(1, self.open_streams)
        ids = ffi.new("int32_t[]", room)
        return list(ffi.unpack(ids, lib.mn_stuck(self.raw, now, limit_s, ids, room)))

    def ping(self, payload: bytes) -> None:
        if len(payload) != 8:
            raise LocalProtocolError("HTTP/2: a PING carries eight bytes")
        if lib.mn_ping(self.raw, payload):
            raise LocalProtocolError("HTTP/2: no PING can be sent now")

    def goaway(self, error_code: int = 0, *, graceful: bool = False) -> None:
        lib.mn_goaway(self.raw, error_code, graceful)

    @property
    def open_streams(self) -> int:
        return int(lib.mn_open_streams(self.raw))

    @property
    def remote_max_streams(self) -> int:
        return int(lib.mn_remote_max_streams(self.raw))

    @property
    def remote_extended_connect(self) -> bool:
        return bool(lib.mn_remote_extended_connect(self.raw))

    @property
    def wants_output(self) -> bool:
        return bool(lib.mn_wants_output(self.raw))

    @property
    def touched(self) -> bool:
        """The last call left output in sessions of a lane."""
        return bool(self._batch.touched)

    def _error(self) -> str:
        text: bytes = ffi.string(self._batch.error)
        return text.decode("ascii", "replace")

    def _release(self, batch: ffi.CData) -> None:
        held = self._held
        for token in ffi.unpack(batch.released, batch.released_len):
            held.pop(token, None)

    def _events(self, batch: ffi.CData, data: bytes | memoryview) -> list[Event]:
        """Build the events of a batch. DATA of one stream that came in a row is one event."""
        records: Iterable[int] = iter(ffi.unpack(batch.events, batch.events_len))
        text = ffi.buffer(batch.text, batch.text_len)[:] if batch.text_len else b""
        events: list[Event] = []
        run: list[memoryview] = []
        run_stream = at = 0
        view = memoryview(data)
        for kind, stream, a, b in zip(records, records, records, records, strict=True):
            if kind == _DATA:
                if run and stream != run_stream:
                    events.append(_joined(run_stream, run))
                    run = []
                run_stream = stream
                run.append(view[a : a + b])
                continue
            if run:
                events.append(_joined(run_stream, run))
                run = []
            if kind == _HEADERS:
                headers = unpack_headers(text[at : at + a])
                end, unknown = bool(b & _END_FLAG), bool(b & _UNKNOWN_FLAG)
                events.append(HeadersReceived(stream, headers, end, unknown))
                at += a
            elif kind == _RETURNED:
                events.append(_returned(stream, text[at : at + a]))
                at += a
            elif kind == _TOLD:
                events.append(RequestTold(_told(ffi.new("mn_told *"), text[at : at + a])[0]))
                at += a
            elif kind == _PONG:
                events.append(PingAcknowledged(text[at : at + a]))
                at += a
            else:
                events.append(_plain(kind, stream, a, b))
        if run:
            events.append(_joined(run_stream, run))
        return events


def _joined(stream: int, parts: list[memoryview]) -> DataReceived:
    data = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
    return DataReceived(stream, data, len(data))


def _returned(stream: int, text: bytes) -> RequestReturned:
    what = ffi.new("mn_told *")
    request, body = _told(what, text)
    return RequestReturned(stream, request, body if what.whole else None)


def _told(what: ffi.CData, text: bytes) -> tuple[LaneRequest, bytes]:
    size = ffi.sizeof("mn_told")
    ffi.memmove(what, text, size)
    head_end = size + what.head_len
    id_end = head_end + what.id_len
    request = LaneRequest(
        headers=unpack_headers(text[size:head_end]),
        request_id=text[head_end:id_end],
        received_bytes=what.received,
        sent_bytes=what.sent,
        seconds=what.seconds,
        answered_s=what.answered_s if what.answered_s >= 0 else None,
        status=what.status,
        grpc_status=what.grpc_status,
        entry=what.entry,
        target=what.target,
        is_over=bool(what.over),
        why=what.why,
        error_code=what.code,
    )
    return request, text[id_end:]


def _plain(kind: int, stream: int, a: int, b: int) -> Event:
    if kind == _END:
        return StreamEnded(stream)
    if kind == _RESET:
        return StreamReset(stream, a & _UNSIGNED, bool(b))
    if kind == _SETTINGS:
        return SettingsReceived()
    if kind == _GOAWAY:
        return GoawayReceived(stream, a & _UNSIGNED)
    return Drained(stream)
