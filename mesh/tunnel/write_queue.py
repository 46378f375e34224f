"""Bytes that wait for a socket. No I/O.

Large pieces are kept as they are; small ones are joined, so that a peer that sends one byte per
frame costs one buffer, not an object per byte.
"""

from __future__ import annotations

from collections import deque

_SMALL = 4096
_JOINED_MAX = 64 * 1024
_PIECES_PER_WRITE = 16  # well below IOV_MAX; more gains nothing


class WriteQueue:
    """A first-in first-out queue of bytes with partial removal."""

    __slots__ = ("_head", "_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] = deque()
        self._head = 0  # bytes of the first piece that are gone already
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, data: bytes) -> None:
        size = len(data)
        if not size:
            return
        self._size += size
        pieces = self._pieces
        if size < _SMALL and pieces and len(pieces[-1]) < _JOINED_MAX:
            tail = pieces[-1]
            if isinstance(tail, bytearray):
                tail += data
                return
            if len(tail) < _SMALL:
                pieces[-1] = bytearray(tail) + data
                return
        pieces.append(data)

    def pieces(self) -> list[memoryview | bytes | bytearray]:
        """The next pieces to write, in order. Drop the list before `append()` or `advance()`."""
        result: list[memoryview | bytes | bytearray] = []
        for piece in self._pieces:
            if len(result) == _PIECES_PER_WRITE:
                break
            result.append(piece)
        if self._head:
            result[0] = memoryview(result[0])[self._head :]
        return result

    def advance(self, count: int) -> None:
        """Remove `count` bytes from the front."""
        self._size -= count
        pieces = self._pieces
        while count:
            left = len(pieces[0]) - self._head
            if count < left:
                self._head += count
                return
            count -= left
            self._head = 0
            pieces.popleft()

    def clear(self) -> None:
        self._pieces.clear()
        self._head = self._size = 0
