"""Cut a peer's bytes into whole HTTP/2 frames (RFC 9113 §3.4, §4.1), without their meaning.

The portable engine looks at frames before `h2` does, because `h2` takes a GOAWAY for the end of the
connection, and to count what is cheap for the peer and dear for us.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mesh.errors import RemoteProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD_BYTES = 9

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
SETTINGS = 0x4
PUSH_PROMISE = 0x5
GOAWAY = 0x7
CONTINUATION = 0x9

FLAG_END_HEADERS = 0x4


class FrameTooLargeError(RemoteProtocolError):
    """FRAME_SIZE_ERROR (RFC 9113 §4.2)."""


@dataclass(frozen=True, slots=True)
class RawFrame:
    """One frame; `raw` holds its nine-byte head too."""

    kind: int
    flags: int
    stream: int
    raw: bytes


class FrameSplitter:
    """Holds at most one frame that is not complete."""

    __slots__ = ("_buffer", "_max_frame_bytes", "_preface")

    def __init__(self, *, max_frame_bytes: int, expect_preface: bool) -> None:
        self._buffer = bytearray()
        self._max_frame_bytes = max_frame_bytes
        self._preface = PREFACE if expect_preface else b""

    def feed(self, data: bytes | memoryview) -> Iterator[RawFrame]:
        """Frames completed by `data`. Raises `RemoteProtocolError` for a wrong preface or a frame
        larger than we announced, before its payload is kept."""
        data = self._after_preface(data)
        self._buffer += data
        at = 0
        try:
            while (frame := self._next(at)) is not None:
                at += len(frame.raw)
                yield frame
        finally:
            del self._buffer[:at]

    def _after_preface(self, data: bytes | memoryview) -> bytes | memoryview:
        wanted = self._preface
        if not wanted:
            return data
        got = bytes(data[: len(wanted)])
        if not wanted.startswith(got):
            raise RemoteProtocolError("HTTP/2: the peer does not speak HTTP/2 (wrong preface)")
        self._preface = wanted[len(got) :]
        return data[len(got) :]

    def _next(self, at: int) -> RawFrame | None:
        buffer = self._buffer
        if len(buffer) - at < FRAME_HEAD_BYTES:
            return None
        length = int.from_bytes(buffer[at : at + 3], "big")
        if length > self._max_frame_bytes:
            raise FrameTooLargeError(f"HTTP/2: a frame of {length} bytes is more than we take")
        end = at + FRAME_HEAD_BYTES + length
        if len(buffer) < end:
            return None
        stream = int.from_bytes(buffer[at + 5 : at + 9], "big") & 0x7FFFFFFF
        return RawFrame(buffer[at + 3], buffer[at + 4], stream, bytes(buffer[at:end]))


def parse_goaway(raw: bytes) -> tuple[int, int]:
    """Last stream and error code of a GOAWAY frame (RFC 9113 §6.8); raise `FrameTooLargeError`."""
    payload = raw[FRAME_HEAD_BYTES:]
    if len(payload) < 8:
        raise FrameTooLargeError("HTTP/2: a GOAWAY that is too short")
    last_stream = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
    return last_stream, int.from_bytes(payload[4:8], "big")
