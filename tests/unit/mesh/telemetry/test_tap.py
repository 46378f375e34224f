"""A tap never waits, and says what it could not show."""

from __future__ import annotations

import asyncio

from mesh.telemetry.tap import MAX_WATCHERS, OMITTED_KINDS, Tap


def test_a_slow_watcher_loses_and_learns_how_many() -> None:
    tap: Tap[int] = Tap()

    async def run() -> list[int]:
        with tap.watch(lambda event: event % 2 == 0, queue_events=3) as watcher:
            assert watcher is not None
            assert tap.watched
            for event in range(10):
                tap.publish(event)
            assert watcher.take_lost() == 2
            assert watcher.take_lost() == 0
            return [await watcher.next() for _ in range(3)]

    assert asyncio.run(run()) == [0, 2, 4]
    assert not tap.watched


def test_what_was_only_counted_is_told_by_kind_to_whoever_wants_such() -> None:
    tap: Tap[int] = Tap()
    with tap.watch(lambda event: event % 2 == 0) as watcher:
        assert watcher is not None
        for event, kind, count in (
            (2, "a > b", 3),
            (4, "a > b", 4),
            (6, "c > d", 1),
            (7, "odd", 9),
        ):
            tap.omit(event, kind, count)
        assert watcher.take_omitted() == {"a > b": 7, "c > d": 1}
        assert watcher.take_omitted() == {}
        for number in range(OMITTED_KINDS + 5):
            tap.omit(2, f"{number} > b", 1)
        bounded = watcher.take_omitted()
        assert (len(bounded), bounded[""]) == (OMITTED_KINDS + 1, 5)


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
