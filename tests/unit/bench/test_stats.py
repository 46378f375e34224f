"""Medians, spreads, ratios, turns."""

from __future__ import annotations

import pytest

from bench.stats import Summary, ratio, rotated, summarise


def test_a_summary_is_the_median_and_the_extremes() -> None:
    assert summarise([9.0, 1.0, 2.0]) == Summary(median=2.0, low=1.0, high=9.0, rounds=3)


def test_of_an_even_number_the_median_lies_between() -> None:
    assert summarise([4.0, 1.0, 2.0, 100.0]).median == 3.0


def test_without_a_round_there_is_no_summary() -> None:
    with pytest.raises(ValueError, match="no round"):
        summarise([])


def test_the_ratio_is_ours_by_theirs() -> None:
    assert ratio(3.0, 2.0) == 1.5


def test_nothing_is_divided_by_zero() -> None:
    assert ratio(3.0, 0.0) is None


def test_everybody_is_first_once_and_last_once() -> None:
    turns = [rotated("abc", turn) for turn in range(3)]
    assert [turn[0] for turn in turns] == ["a", "b", "c"]
    assert sorted(turn[-1] for turn in turns) == ["a", "b", "c"]


def test_rotating_nobody_is_nobody() -> None:
    assert rotated([], 5) == []
