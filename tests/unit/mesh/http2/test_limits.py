from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh.http2.limits import (
    IDLE_CREDIT,
    MAX_ANSWER_BYTES,
    MAX_BAD_ENDS,
    MAX_CONTINUATIONS,
    MAX_IDLE_FRAMES,
    Allowance,
    TooMuchError,
)


def times(count: int, step: Callable[[], None]) -> None:
    for _ in range(count):
        step()


@pytest.fixture
def allowance() -> Allowance:
    return Allowance(max_concurrent_streams=10)


def test_bad_ends_stop_at_the_limit(allowance: Allowance) -> None:
    times(MAX_BAD_ENDS + 10, allowance.bad_end)
    with pytest.raises(TooMuchError):
        allowance.bad_end()


def test_answered_streams_earn_bad_ends_but_no_store_of_them(allowance: Allowance) -> None:
    times(500, allowance.answered_stream_ended)
    times(MAX_BAD_ENDS + 10, allowance.bad_end)
    allowance.answered_stream_ended()
    allowance.bad_end()
    with pytest.raises(TooMuchError):
        allowance.bad_end()


def test_idle_frames_stop_at_the_limit_and_useful_ones_earn_more(allowance: Allowance) -> None:
    allowance.useful_frame()
    times(MAX_IDLE_FRAMES, allowance.idle_frame)
    allowance.useful_frame()
    times(IDLE_CREDIT, allowance.idle_frame)
    with pytest.raises(TooMuchError):
        allowance.idle_frame()


def test_continuations_stop_at_the_limit(allowance: Allowance) -> None:
    times(MAX_CONTINUATIONS, allowance.continuation)
    with pytest.raises(TooMuchError):
        allowance.continuation()


def test_answers_are_bounded_until_they_are_taken(allowance: Allowance) -> None:
    allowance.answered(MAX_ANSWER_BYTES)
    allowance.output_taken()
    allowance.answered(MAX_ANSWER_BYTES)
    with pytest.raises(TooMuchError):
        allowance.answered(1)
