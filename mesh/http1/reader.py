"""Bytes of one connection to events, message by message.

A reader stops after each message: what follows waits in its buffer until `next_message()`, so a
pipelined request can't overtake the answer of the one before it.
"""

from __future__ import annotations

from mesh.errors import LocalProtocolError
from mesh.http1.chunked import ChunkedDecoder
from mesh.http1.head import RequestFacts, parse_request_head, parse_response_head
from mesh.http1.message import (
    Body,
    End,
    Framing,
    Limits,
    MessageError,
    RequestEvent,
    RequestHead,
    ResponseEvent,
    ResponseHead,
)

_END = b"\r\n\r\n"


class _Reader:
    """What both directions share: finding the head, reading the body."""

    __slots__ = ("_buffer", "_decoder", "_framing", "_left", "_limits", "_scanned", "is_idle")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._decoder: ChunkedDecoder | None = None
        self._framing: Framing | None = None  # None: before or inside a head
        self._left = 0
        self._scanned = 0
        self.is_idle = True
        """Between messages, with nothing read of the next one."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes of later messages that were received already."""
        return len(self._buffer)

    def _take_fresh(self, data: bytes) -> bytes | None:
        """The head that came in one read, the common case; otherwise `data` is buffered."""
        if not self._buffer and self._framing is None:
            end = data.find(_END)
            if 0 < end <= self._limits.head_bytes and data[0] != 0x0D:
                if len(data) > end + 4:
                    self._buffer += data[end + 4 :]
                return data[:end]
        self._buffer += data
        return None

    def _take_head(self) -> bytes | None:
        """The head's bytes once it is complete."""
        buffer = self._buffer
        if not self._scanned and buffer[:2] == b"\r\n":  # RFC 9112 §2.2: one empty line before
            del buffer[:2]
        end = buffer.find(_END, self._scanned)
        if end < 0 or end > self._limits.head_bytes:
            self._check_unfinished(end)
            self._scanned = max(0, len(buffer) - 3)
            return None
        self._scanned = 0
        head = bytes(buffer[:end])
        del buffer[: end + 4]
        return head

    def _check_unfinished(self, end: int) -> None:
        """Refuse early: too long, or lines that end with a bare LF (no head would ever end)."""
        buffer = self._buffer
        if end >= 0 or len(buffer) > self._limits.head_bytes:
            if buffer.find(b"\r\n", 0, self._limits.line_bytes) < 0:
                raise MessageError(414, "http1.long_target", "the first line is too long")
            raise MessageError(431, "http1.long_head", "the head is too long")
        # The CR of an LF that is new may have been there before.
        start = self._scanned
        if buffer.count(b"\n", start) != buffer.count(b"\r\n", max(0, start - 1)):
            raise MessageError(400, "http1.bad_byte", "a line ends with a bare LF")

    def _begin_body(self, framing: Framing, length: int | None) -> None:
        self._framing = framing
        self._left = length or 0
        self._decoder = ChunkedDecoder(self._limits) if framing is Framing.CHUNKED else None

    def _read_body(self) -> tuple[bytes, End | None]:
        """Payload in the buffer, and the end if it was reached."""
        buffer, framing = self._buffer, self._framing
        if framing is Framing.NONE:
            return b"", End([])
        if framing is Framing.LENGTH:
            data = bytes(buffer[: self._left])
            del buffer[: len(data)]
            self._left -= len(data)
            return data, None if self._left else End([])
        if self._decoder is not None:
            data = self._decoder.decode(buffer)
            return data, End(self._decoder.trailers) if self._decoder.done else None
        data = bytes(buffer)  # until close, or raw
        buffer.clear()
        return data, None


class RequestReader(_Reader):
    """The server's side of a connection."""

    __slots__ = ("_done",)

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._done = False

    def receive(self, data: bytes) -> list[RequestEvent]:
        """Take bytes; return what they complete. Raises `MessageError`: then close."""
        if self._done:
            self._buffer += data
            return []
        return self._read(self._take_fresh(data))

    def next_message(self) -> list[RequestEvent]:
        """The exchange is over: go on with the next request."""
        self._done = False
        self._framing = None
        self.is_idle = True
        return self._read() if self._buffer else []

    def switch(self) -> list[RequestEvent]:
        """The protocol was switched: everything from here on is payload."""
        self._done = False
        self._begin_body(Framing.RAW, None)
        return self._read() if self._buffer else []

    @property
    def has_ended(self) -> bool:
        """The request was read to its end."""
        return self._done

    @property
    def is_raw(self) -> bool:
        """The protocol was switched."""
        return self._framing is Framing.RAW

    def _read(self, block: bytes | None = None) -> list[RequestEvent]:
        events: list[RequestEvent] = []
        if self._framing is None:
            self.is_idle = block is None and not self._buffer
            block = block if block is not None else self._take_head()
            if block is None:
                return events
            head = parse_request_head(block, self._limits)
            self._begin_body(head.framing, head.length)
            events.append(head)
        data, end = self._read_body()
        if data:
            events.append(Body(data))
        if end is not None:
            self._done = True
            events.append(end)
        return events


class ResponseReader(_Reader):
    """The client's side of a connection."""

    __slots__ = ("_request",)

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._request: RequestFacts | None = None

    def expect(self, head: RequestHead) -> None:
        """A request was sent: the next response answers it."""
        if not self.is_idle or self._buffer:
            raise LocalProtocolError("a response is still being read")
        self._request = RequestFacts(head.method == b"HEAD", head.upgrade)
        self.is_idle = False

    def receive(self, data: bytes) -> list[ResponseEvent]:
        """Take bytes; return what they complete. Raises `MessageError`: then close."""
        if self._request is None:
            raise MessageError(502, "http1.unasked", "bytes that no request asked for")
        return self._read(self._request, self._take_fresh(data))

    def receive_eof(self) -> list[ResponseEvent]:
        """The peer closed: the end of a body that lasts until then, else a `MessageError`."""
        if self._framing is Framing.UNTIL_CLOSE or self._framing is Framing.RAW:
            self._reset()
            return [End([])]
        raise MessageError(502, "http1.cut", "the connection ended inside a response")

    def _read(self, request: RequestFacts, block: bytes | None) -> list[ResponseEvent]:
        events: list[ResponseEvent] = []
        while self._framing is None:
            block = block if block is not None else self._take_head()
            if block is None:
                return events
            head, block = parse_response_head(block, self._limits, request), None
            events.append(head)
            if head.status >= 200 or head.framing is Framing.RAW:
                self._begin_body(head.framing, head.length)
        data, end = self._read_body()
        if data:
            events.append(Body(data))
        if end is not None:
            self._reset()
            events.append(end)
        return events

    def _reset(self) -> None:
        self._framing = None
        self._request = None
        self.is_idle = True


__all__ = ["RequestReader", "ResponseHead", "ResponseReader"]
