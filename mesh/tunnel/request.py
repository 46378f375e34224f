"""Server side: a CONNECT that waits for an answer."""

from __future__ import annotations

import socket
from typing import Protocol

from mesh.errors import LocalProtocolError
from mesh.tunnel.contract import End, EndReason, Headers, StreamEvents
from mesh.tunnel.port import close_with_reset
from mesh.tunnel.stream import StreamHost, TunnelStream


class RequestHost(StreamHost, Protocol):
    def refuse_stream(self, stream: TunnelStream, status: int, headers: Headers) -> None:
        """Answer with END_STREAM and forget the stream."""

    def decline_stream(self, stream: TunnelStream) -> None:
        """Reset with REFUSED_STREAM and forget the stream."""


class PendingRequest:
    """See `mesh.tunnel.contract.StreamRequest`."""

    __slots__ = ("_answered", "_headers", "_host", "_stream")

    def __init__(self, host: RequestHost, stream: TunnelStream, headers: Headers) -> None:
        self._host = host
        self._stream = stream
        self._headers = headers
        self._answered = False

    @property
    def headers(self) -> Headers:
        return self._headers

    def accept(self, headers: Headers, sock: socket.socket, events: StreamEvents) -> TunnelStream:
        try:
            self._answer()
        except LocalProtocolError:
            sock.close()
            raise
        stream = self._stream
        if stream.done:
            close_with_reset(sock)
            end = End(
                reason=EndReason.PEER_RESET,
                bytes_out=0,
                bytes_in=0,
                detail="the stream ended before it was accepted",
            )
            self._host.loop.call_soon(events.stream_closed, end)
            return stream
        self._host.session.send_headers(stream.id, [(b":status", b"200"), *headers])
        stream.join(sock, events)
        self._host.schedule_flush()
        return stream

    def refuse(self, status: int, headers: Headers = ()) -> None:
        self._answer()
        if not self._stream.done:
            self._host.refuse_stream(self._stream, status, headers)

    def decline(self) -> None:
        self._answer()
        if not self._stream.done:
            self._host.decline_stream(self._stream)

    def _answer(self) -> None:
        if self._answered:
            raise LocalProtocolError("a CONNECT request was answered twice")
        self._answered = True
