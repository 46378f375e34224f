"""Reader of a BPF ring buffer by mmap (kernel documentation: bpf/ringbuf.rst). No bcc.

One reader per map. The position lives in the map, so a new process goes on where the old one
stopped. `fileno()` becomes readable when records arrive: give it to an event loop.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

from agent.capture.table import Table

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER = 8


class RingReader:
    """Maps the ring of an open table; the table stays the caller's and must outlive the reader."""

    def __init__(self, table: Table) -> None:
        self._fd = table.fd
        self._size = table.spec.max_entries
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(
            self._fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
        )
        # The kernel maps the data twice in a row, so that no record wraps around.
        self._producer = mmap.mmap(
            self._fd, page + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._page = page

    def fileno(self) -> int:
        """Descriptor to poll for reading."""
        return self._fd

    def read(self, limit: int = 4096) -> Iterator[bytes]:
        """Records that are ready, at most `limit`; each is consumed when taken."""
        for _ in range(limit):
            (consumed,) = struct.unpack_from("=Q", self._consumer)
            (produced,) = struct.unpack_from("=Q", self._producer)
            if consumed >= produced:
                return
            at = self._page + (consumed & (self._size - 1))
            (header,) = struct.unpack_from("=I", self._producer, at)
            if header & _BUSY:
                return  # reserved, not submitted yet; the kernel wakes us again
            length = header & ~(_BUSY | _DISCARDED)
            record = self._producer[at + _HEADER : at + _HEADER + length]
            struct.pack_into("=Q", self._consumer, 0, consumed + (_HEADER + length + 7) // 8 * 8)
            if not header & _DISCARDED:
                yield record

    def close(self) -> None:
        """Unmap."""
        self._consumer.close()
        self._producer.close()
