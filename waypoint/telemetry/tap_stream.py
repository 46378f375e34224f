"""Readers of taps: their filters go to the workers, what those catch comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from aiohttp import web

from mesh.errors import ConfigError
from waypoint.telemetry.tap import TapEvent, TapFilter, parse_filter

MAX_READERS = 16
QUEUE_EVENTS = 2000
BEAT_S = 1.0


class Reader:
    """One reader's queue; a slow one loses events, and is told how many."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[TapEvent] = asyncio.Queue(QUEUE_EVENTS)
        self._lost = 0

    def offer(self, events: list[TapEvent], lost: int) -> None:
        self._lost += lost
        for event in events:
            if self._queue.full():
                self._lost += 1
            else:
                self._queue.put_nowait(event)

    async def lines(self) -> bytes:
        """What there is, once there is something; an empty line after `BEAT_S` without."""
        events: list[TapEvent] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEAT_S):
                events.append(await self._queue.get())
        while not self._queue.empty() and len(events) < 100:
            events.append(self._queue.get_nowait())
        lost, self._lost = self._lost, 0
        rows = [json.dumps({"lost": lost})] if lost else []
        rows += [json.dumps(event) for event in events]
        return "".join(f"{row}\n" for row in rows or [""]).encode()


class TapReaders:
    """All readers of one waypoint.

    Args:
        changed: told of the filters there are now.
    """

    def __init__(self, changed: Callable[[list[TapFilter]], None]) -> None:
        self._changed = changed
        self._readers: dict[int, Reader] = {}
        self._filters: dict[int, TapFilter] = {}
        self._next = 0

    @property
    def filters(self) -> list[TapFilter]:
        return list(self._filters.values())

    def offer(self, tap: int, events: list[TapEvent], lost: int) -> None:
        """Give a worker's events to their reader, if it is still there."""
        reader = self._readers.get(tap)
        if reader is not None:
            reader.offer(events, lost)

    @contextmanager
    def reader(self, query: Mapping[str, str]) -> Iterator[Reader]:
        """Watch while the block runs. Raises `ConfigError` for a bad filter, or if too many do."""
        if len(self._readers) >= MAX_READERS:
            raise ConfigError("too many watch already: end another tap first")
        self._next += 1
        number = self._next
        self._filters[number] = parse_filter(number, query)
        reader = self._readers[number] = Reader()
        try:
            self._changed(self.filters)
            yield reader
        finally:
            del self._filters[number], self._readers[number]
            self._changed(self.filters)


async def stream_tap(request: web.Request, readers: TapReaders) -> web.StreamResponse:
    """Write requests as lines until the reader goes away."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    try:
        with readers.reader(request.query) as reader:
            await response.prepare(request)
            while True:
                await response.write(await reader.lines())
    except ConfigError as error:
        body = {"error": {"code": "config", "message": str(error), "hint": ""}}
        return web.json_response(body, status=400)
    except ConnectionResetError:  # the reader went away
        return response
