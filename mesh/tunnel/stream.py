"""One CONNECT stream joined to a socket: the two directions, their ends and their credit."""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol

from mesh.hbone.connect import parse_status
from mesh.http2.contract import Http2Session
from mesh.tunnel.contract import End, EndReason, Headers, StreamEvents
from mesh.tunnel.port import Port, close_with_reset, describe_os_error
from mesh.tunnel.windows import Windows
from mesh.tunnel.write_queue import WriteQueue

_READ_BYTES = 128 * 1024
_UNSENT_MAX = 256 * 1024
"""Bytes of the application held in the session before its socket is read no further."""

# RFC 9113 §7
NO_ERROR = 0x0
CANCEL = 0x8
_ERROR_NAMES = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)


def describe_error_code(code: int) -> str:
    return _ERROR_NAMES[code] if code < len(_ERROR_NAMES) else f"error {code}"


class StreamHost(Protocol):
    """What a stream needs of its connection."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def session(self) -> Http2Session: ...
    @property
    def windows(self) -> Windows: ...
    def schedule_flush(self) -> None: ...
    def stream_done(self, stream: TunnelStream) -> None: ...


class TunnelStream:
    """A stream of either side (`mesh.tunnel.contract.Stream`)."""

    __slots__ = (
        "_early",
        "_events",
        "_host",
        "_in",
        "_local_ended",
        "_local_flushed",
        "_out",
        "_port",
        "_remote_ended",
        "_sock",
        "done",
        "id",
        "window",
    )

    def __init__(self, host: StreamHost, stream_id: int) -> None:
        self._host = host
        self.id = stream_id
        self.done = False
        self.window = host.windows.open()
        self._events: StreamEvents | None = None
        self._sock: socket.socket | None = None
        """The socket before it is joined; the engine does not touch it until then."""
        self._port: Port | None = None
        self._early: WriteQueue | None = None
        """Payload that came before the socket."""
        self._out = 0
        self._in = 0
        self._local_ended = False  # the application's FIN was queued as END_STREAM
        self._local_flushed = False  # and became a frame
        self._remote_ended = False

    @property
    def bytes_out(self) -> int:
        return self._out

    @property
    def bytes_in(self) -> int:
        return self._in

    # --- calls of the owner -------------------------------------------------------------------

    def await_answer(self, sock: socket.socket, events: StreamEvents) -> None:
        """Client: keep `sock` for when the peer says 200."""
        self._sock, self._events = sock, events

    def join(self, sock: socket.socket, events: StreamEvents) -> None:
        """Move bytes between the stream and `sock` from now on."""
        self._sock, self._events = None, events
        port = self._port = Port(self._host.loop, sock, self)
        early, self._early = self._early, None
        try:
            while early:
                pieces = [bytes(piece) for piece in early.pieces()]
                for piece in pieces:
                    self._took(port.write(piece))
                early.advance(sum(map(len, pieces)))
            if self._remote_ended:
                port.finish()
        except OSError as error:
            self._host.loop.call_soon(self.port_failed, error)
            return
        port.resume()

    def abort(self, detail: str = "") -> None:
        if not self.done:
            self._reset(EndReason.ABORTED, detail)

    # --- events of the session ----------------------------------------------------------------

    def headers_received(self, headers: Headers, end_stream: bool) -> None:
        """Client: the answer, an informational response before it, or trailers after it."""
        if self._sock is not None and self._events is not None:
            status = parse_status(headers)
            if status < 200:
                return
            if status != 200:
                self.refused(status, headers, "")
                return
            events = self._events
            self.join(self._sock, events)
            events.stream_opened(headers)
        if end_stream and not self.done:
            self.end_received()

    def data_received(self, data: bytes, flow_bytes: int) -> None:
        if flow_bytes != len(data):
            self._host.session.consume(self.id, flow_bytes - len(data))
        if self._port is None:
            if self._early is None:
                self._early = WriteQueue()
            self._early.append(data)
            return
        try:
            self._took(self._port.write(data))
        except OSError as error:
            self.port_failed(error)

    def end_received(self) -> None:
        self._remote_ended = True
        if self._port is None:
            return
        try:
            self._port.finish()
        except OSError as error:
            self.port_failed(error)
            return
        self._check_done()

    def reset_received(self, code: int, remote: bool) -> None:
        if self._sock is not None:
            self.refused(0, (), f"stream reset: {describe_error_code(code)}")
        elif remote and code == NO_ERROR and self._port is not None:
            # RFC 9113 §8.1: the peer has answered in full and wants no more of ours.
            self._local_flushed = True
            self._port.pause()
            self.end_received()
        else:
            who = "peer" if remote else "peer broke the protocol:"
            self._finish(EndReason.PEER_RESET, f"{who} reset: {describe_error_code(code)}")

    def drained(self) -> None:
        """Everything queued became frames."""
        if self._local_ended:
            self._local_flushed = True
            self._check_done()
        elif self._port is not None:
            self._port.resume()

    def tunnel_lost(self, detail: str) -> None:
        if self._sock is not None:
            self.refused(0, (), detail)
        else:
            self._finish(EndReason.TUNNEL_LOST, detail)

    def refused(self, status: int, headers: Headers, detail: str) -> None:
        """Client: no tunnel for this socket, which goes back to the caller untouched."""
        events, self._sock = self._events, None
        self.done = True
        if events is None:
            return
        if status:
            self._host.session.reset(self.id, CANCEL)
            self._host.schedule_flush()
        self._host.stream_done(self)
        self._host.loop.call_soon(events.stream_refused, status, headers, detail)

    # --- events of the socket -----------------------------------------------------------------

    def port_readable(self) -> None:
        port = self._port
        if port is None:
            return
        try:
            data = port.receive(_READ_BYTES)
        except OSError as error:
            self.port_failed(error)
            return
        if data is None:
            return
        session = self._host.session
        if data:
            self._out += len(data)
            session.send_data(self.id, data)
            if session.unsent_bytes(self.id) > _UNSENT_MAX:
                port.pause()
        else:
            port.pause()
            self._local_ended = True
            session.send_data(self.id, b"", end_stream=True)
        self._host.schedule_flush()

    def port_wrote(self, count: int) -> None:
        self._took(count)
        if self._remote_ended:
            self._check_done()

    def port_failed(self, error: OSError) -> None:
        if not self.done:
            self._reset(EndReason.APPLICATION_RESET, describe_os_error(error))

    # --- ends ---------------------------------------------------------------------------------

    def _took(self, count: int) -> None:
        """The application's socket took `count` bytes: the peer may send as many again."""
        if count:
            self._in += count
            session = self._host.session
            session.consume(self.id, count)
            more = self._host.windows.consumed(self.window, count)
            if more and not self._remote_ended:
                session.widen(self.id, more)
            self._host.schedule_flush()

    def _check_done(self) -> None:
        if self._remote_ended and self._local_flushed and not (self._port and self._port.backlog):
            self._finish(EndReason.DONE, "")

    def _reset(self, reason: EndReason, detail: str) -> None:
        session = self._host.session
        self._out -= session.unsent_bytes(self.id)  # will never be sent
        session.reset(self.id, CANCEL)
        self._host.schedule_flush()
        self._finish(reason, detail)

    def _finish(self, reason: EndReason, detail: str) -> None:
        if self.done:
            return
        self.done = True
        if self._sock is not None:
            close_with_reset(self._sock)
            self._sock = None
        if self._port is not None:
            if reason is EndReason.DONE:
                self._port.close()
            else:
                # Bytes that were never delivered must not keep the connection's window shut.
                self._host.session.consume(self.id, self._port.backlog)
                self._port.reset()
        elif self._early is not None:
            self._host.session.consume(self.id, len(self._early))
        self._host.stream_done(self)
        if self._events is not None:
            end = End(reason=reason, bytes_out=self._out, bytes_in=self._in, detail=detail)
            self._host.loop.call_soon(self._events.stream_closed, end)
