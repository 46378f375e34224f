"""Live events for whoever watches, at no cost while nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

Event = TypeVar("Event")

QUEUE_EVENTS = 1000
MAX_WATCHERS = 16
OMITTED_KINDS = 100
"""Of which a watcher is told apart between two of its looks; they are one number beyond."""


class Watcher(Generic[Event]):
    """One reader with its own queue; a slow one loses events, and is told how many."""

    def __init__(self, wanted: Callable[[Event], bool], queue_events: int) -> None:
        self._wanted = wanted
        self._queue: asyncio.Queue[Event] = asyncio.Queue(queue_events)
        self._lost = 0
        self._omitted: dict[str, int] = {}

    def offer(self, event: Event) -> None:
        """Take an event if it is wanted and there is room."""
        if not self._wanted(event):
            return
        if self._queue.full():
            self._lost += 1
        else:
            self._queue.put_nowait(event)

    async def next(self) -> Event:
        """Wait for an event."""
        return await self._queue.get()

    def omit(self, event: Event, kind: str, count: int) -> None:
        """Events like this one happened that were only counted."""
        if not self._wanted(event):
            return
        if kind not in self._omitted and len(self._omitted) >= OMITTED_KINDS:
            kind = ""
        self._omitted[kind] = self._omitted.get(kind, 0) + count

    def take_lost(self) -> int:
        """How many were lost since the last call."""
        lost, self._lost = self._lost, 0
        return lost

    def take_omitted(self) -> Mapping[str, int]:
        """How many were only counted since the last call, by kind; empty = of any other kind."""
        omitted, self._omitted = self._omitted, {}
        return omitted


class Tap(Generic[Event]):
    """Hands events to all watchers. Never waits."""

    def __init__(self) -> None:
        self._watchers: set[Watcher[Event]] = set()
        self._close: set[Watcher[Event]] = set()
        self.on_close: Callable[[bool], None] = lambda _looks: None
        """Told when somebody begins to look closely, and when nobody does any more."""

    @property
    def watched(self) -> bool:
        """Whether anybody looks: nobody need make an event otherwise."""
        return bool(self._watchers)

    def publish(self, event: Event) -> None:
        """Offer an event to every watcher."""
        for watcher in self._watchers:
            watcher.offer(event)

    def omit(self, event: Event, kind: str, count: int) -> None:
        """Tell the watchers of such events that so many more were only counted. `kind` is what they
        have in common, in words."""
        for watcher in self._watchers:
            watcher.omit(event, kind, count)

    @contextmanager
    def watch(
        self,
        wanted: Callable[[Event], bool],
        queue_events: int = QUEUE_EVENTS,
        *,
        closely: bool = False,
    ) -> Iterator[Watcher[Event] | None]:
        """Watch while the block runs; None if too many do already. Who looks `closely` wants more
        than a sample, for a while."""
        if len(self._watchers) >= MAX_WATCHERS:
            yield None
            return
        watcher = Watcher(wanted, queue_events)
        self._watchers.add(watcher)
        if closely:
            self._look(self._close | {watcher})
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            self._look(self._close - {watcher})

    def _look(self, close: set[Watcher[Event]]) -> None:
        before, self._close = self._close, close
        if bool(before) != bool(close):
            self.on_close(bool(close))
