"""The chunked transfer coding (RFC 9112 §7.1), incrementally."""

from __future__ import annotations

import re

from mesh.http1.grammar import parse_fields, split_lines
from mesh.http1.message import Headers, Limits, MessageError

# Fifteen digits: no size that overflows a signed 64-bit integer anywhere behind us. Extensions
# are read over, but only in the bytes a field value may have.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_CREDIT = 16
"""Bytes of payload that earn one byte of chunk lines."""

# RFC 9110 §6.5.1: what frames, routes or authenticates must not come after the content.
_NOT_IN_TRAILERS = frozenset(
    (
        *(b"transfer-encoding", b"content-length", b"host", b"connection", b"te", b"upgrade"),
        *(b"trailer", b"content-encoding", b"content-type", b"content-range", b"expect"),
        *(b"authorization", b"cookie", b"set-cookie", b"keep-alive", b"proxy-connection"),
    )
)


class ChunkedDecoder:
    """Decodes one body. Feed it a buffer; it removes what it has read.

    Attributes:
        done: the last chunk and the trailers were read.
    """

    __slots__ = ("_left", "_limits", "_overhead", "_state", "done", "trailers")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._state = self._size
        self._left = 0
        self._overhead = 0
        self.done = False
        self.trailers: Headers = []

    def decode(self, buffer: bytearray) -> bytes:
        """Payload that `buffer` holds. Raises `MessageError`."""
        pieces: list[bytes] = []
        while self._state(buffer, pieces):
            pass
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _size(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        end = buffer.find(b"\r\n", 0, self._limits.chunk_line_bytes + 2)
        if end < 0:
            if len(buffer) > self._limits.chunk_line_bytes or b"\n" in buffer:
                raise _bad("a chunk's size line does not end")
            return False
        match = _SIZE_LINE.fullmatch(buffer, 0, end)
        if match is None:
            raise _bad(f"chunk size {bytes(buffer[: min(end, 32)])!r}")
        self._left = int(match[1], 16)
        self._overhead += end
        del match
        del buffer[: end + 2]
        if self._overhead > self._limits.chunk_overhead_bytes:
            raise _bad("too many bytes of chunk lines")
        self._state = self._data if self._left else self._trailer
        return True

    def _data(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        if not buffer:
            return False
        piece = bytes(buffer[: self._left])
        del buffer[: len(piece)]
        pieces.append(piece)
        self._left -= len(piece)
        self._overhead = max(0, self._overhead - len(piece) // _CREDIT)
        if self._left:
            return False
        self._state = self._data_end
        return True

    def _data_end(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        if len(buffer) < 2:
            if buffer and buffer[0] != 0x0D:
                raise _bad("a chunk is longer than it says")
            return False
        if buffer[:2] != b"\r\n":
            raise _bad("a chunk is longer than it says")
        del buffer[:2]
        self._state = self._size
        return True

    def _trailer(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        if buffer[:2] == b"\r\n":
            del buffer[:2]
            self.done = True
            self._state = self._nothing
            return False
        end = buffer.find(b"\r\n\r\n", 0, self._limits.trailer_bytes + 4)
        if end < 0:
            if len(buffer) > self._limits.trailer_bytes:
                raise MessageError(431, "http1.long_trailers", "too many bytes of trailers")
            return False
        fields = parse_fields(split_lines(bytes(buffer[:end])), self._limits.fields)
        self.trailers = [item for item in fields if item[0] not in _NOT_IN_TRAILERS]
        del buffer[: end + 4]
        self.done = True
        self._state = self._nothing
        return False

    def _nothing(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        return False


def _bad(detail: str) -> MessageError:
    return MessageError(400, "http1.bad_chunk", detail)


def encode_chunk(data: bytes) -> bytes:
    """One chunk. Data must not be empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def encode_last_chunk(trailers: Headers) -> bytes:
    """The end of a body."""
    if not trailers:
        return b"0\r\n\r\n"
    fields = b"".join([b"%b: %b\r\n" % item for item in trailers])
    return b"0\r\n%b\r\n" % fields
