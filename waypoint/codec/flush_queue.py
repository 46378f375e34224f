"""Writes of one turn of the loop, done together at its end.

Every write to an idle peer wakes it. Written one after the other, while each read is handled, 32
connections cost 32 wake-ups; written in a row, the peer is awake after the first.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

LARGE_BYTES = 64 * 1024
"""A piece of a body that is written at once. In one turn the loop may read 32 times: collected
until its end, they would pass the high-water mark long before anybody is told to stop."""


class Writer(Protocol):
    """A codec with collected output."""

    def write_now(self) -> None: ...


class FlushQueue:
    """One per event loop."""

    __slots__ = ("_loop", "_writers")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writers: list[Writer] = []

    def add(self, writer: Writer) -> None:
        """Write soon; a writer adds itself once per turn."""
        if not self._writers:
            self._loop.call_soon(self._run)
        self._writers.append(writer)

    def _run(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.write_now()
