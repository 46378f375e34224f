"""Cores: each node its own if there are two."""

from __future__ import annotations

import pytest

from bench.plan import ENGINE_VARIABLE, AgentSettings, Cores, assign_cores


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        ([5], Cores(client=5, near_proxy=5, far_proxy=5, server=5)),
        ([1, 0], Cores(client=0, near_proxy=0, far_proxy=1, server=1)),
        ([0, 2, 3], Cores(client=0, near_proxy=0, far_proxy=3, server=3)),
        (range(8), Cores(client=0, near_proxy=1, far_proxy=2, server=3)),
    ],
)
def test_cores_are_shared_out(available: list[int], expected: Cores) -> None:
    assert assign_cores(available) == expected
    assert set(expected.all) <= set(available)


def test_the_agents_are_told_an_engine_only_if_one_is_asked_for() -> None:
    assert AgentSettings().env == {}
    assert AgentSettings(engine="python").env == {ENGINE_VARIABLE: "python"}


def test_later_options_win() -> None:
    assert AgentSettings(options=["--workers=2"]).argv == ["--workers", "1", "--workers=2"]
