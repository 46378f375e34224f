"""Cores: each node its own if there are two."""

from __future__ import annotations

import pytest

from bench.__main__ import all_suites
from bench.plan import ENGINE_VARIABLE, FULL, QUICK, AgentSettings, Cores, Plan, assign_cores


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


@pytest.mark.parametrize(("plan", "most_s"), [(FULL, 850.0), (QUICK, 115.0)])
def test_a_run_ends_in_its_time(plan: Plan, most_s: float) -> None:
    suites = all_suites(plan, AgentSettings())
    expected = sum(s.setup_s + sum(one.expected_s for one in s.scenarios) for s in suites)
    assert expected <= most_s
    assert plan.limit_s < most_s


def test_names_of_scenarios_are_unique() -> None:
    names = [one.name for suite in all_suites(FULL, AgentSettings()) for one in suite.scenarios]
    assert len(set(names)) == len(names)
