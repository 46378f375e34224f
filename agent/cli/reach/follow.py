"""Live events of several agents and waypoints, merged as they come."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from agent.cli.reach.observers import Observer
from mesh.errors import MeshnodeError

Event: TypeAlias = Mapping[str, object]
QUEUE_EVENTS = 10_000


@dataclass(frozen=True, slots=True)
class Gone:
    """An observer ended its stream, or never began it."""

    origin: str
    error: MeshnodeError | None


def follow(
    asked: Sequence[Observer], address: str, query: Mapping[str, str]
) -> Iterator[Event | Gone]:
    """Yield events until every stream has ended. Threads end with the process."""
    events: queue.Queue[Event | Gone] = queue.Queue(QUEUE_EVENTS)
    for one in asked:
        threading.Thread(target=_read, args=(one, address, query, events), daemon=True).start()
    left = len(asked)
    while left:
        event = events.get()
        left -= isinstance(event, Gone)
        yield event


def _read(
    one: Observer, address: str, query: Mapping[str, str], events: queue.Queue[Event | Gone]
) -> None:
    error: MeshnodeError | None = None
    try:
        with one.client.stream(address, **query) as lines:
            for line in lines:
                if line.strip():
                    events.put({"origin": one.origin, **_parse(line)})
    except MeshnodeError as failure:
        error = failure
    events.put(Gone(one.origin, error))


def _parse(line: bytes) -> Event:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise MeshnodeError(f"a stream sent {line[:80]!r}, which is no event")
    return found
