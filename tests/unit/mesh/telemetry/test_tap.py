"""A tap never waits, and says what it could not show."""

from __future__ import annotations

import asyncio

from mesh.telemetry.tap import MAX_WATCHERS, Tap


def test_a_slow_watcher_loses_and_learns_how_many() -> None:
    tap: Tap[int] = Tap()

    async def run() -> list[int]:
        with tap.watch(lambda event: event % 2 == 0, queue_events=3) as watcher:
            assert watcher is not None
            assert tap.watched
            for event in range(10):
                tap.publish(event)
            tap.lose(7)
            assert watcher.take_lost() == 2 + 7
            assert watcher.take_lost() == 0
            return [await watcher.next() for _ in range(3)]

    assert asyncio.run(run()) == [0, 2, 4]
    assert not tap.watched


def test_too_many_watchers_are_refused() -> None:
    tap: Tap[int] = Tap()

    def nest(depth: int) -> bool:
        with tap.watch(bool) as watcher:
            return watcher is None if depth == 0 else nest(depth - 1)

    assert nest(MAX_WATCHERS)
    assert not tap.watched


def test_who_looks_closely_is_told_of_once() -> None:
    tap: Tap[int] = Tap()
    told: list[bool] = []
    tap.on_close = told.append
    with tap.watch(lambda _: True):
        assert told == []
        with tap.watch(lambda _: True, closely=True), tap.watch(lambda _: True, closely=True):
            assert told == [True]
        assert told == [True, False]
