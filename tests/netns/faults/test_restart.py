"""An agent that crashes, stops, freezes and comes back under traffic."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import eventually
from tests.netns.faults.world import (
    World,
    agent_of,
    frozen,
    holder_pid,
    kill9,
    start_agent,
    worker_pids,
)

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def healthy_afterwards(world: World) -> Iterator[None]:
    yield
    for node in (world.a, world.b):
        if not agent_of(node).running:
            start_agent(node)
    world.check_served()


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_crashed_agent_comes_back_and_nothing_is_refused(world: World, side: str) -> None:
    node = world.lab.node(side)
    holder, before = holder_pid(node), worker_pids(node)
    tunnelled, direct = world.hold(world.far.address4), world.hold(world.near.address4)
    with world.churn(world.far.address4) as out, world.churn(world.near.address4, 50) as near:
        agent_of(node).kill()
        start_agent(node)
    out[0].check_all_served()
    near[0].check_all_served()
    assert holder_pid(node) == holder
    assert set(before) & set(worker_pids(node)), "the old workers drain"
    assert tunnelled.running, "a tunnelled connection lives on in its old worker"
    assert tunnelled.result().end == "alive"
    assert direct.result().end == "alive"
    # Nothing holds the old workers any more.
    eventually(lambda: not set(before) & set(worker_pids(node)), 30.0, "the old workers are gone")


@pytest.mark.parametrize("side", ["a", pytest.param("b", marks=pytest.mark.slow)])
def test_a_crashed_agent_is_not_missed(world: World, side: str) -> None:
    node = world.lab.node(side)
    agent_of(node).kill()
    with world.churn(world.far.address4) as out, world.churn(world.near.address4, 50) as near:
        pass
    out[0].check_all_served()
    near[0].check_all_served()


def test_frozen_node_processes_are_not_missed(world: World) -> None:
    with (
        frozen(agent_of(world.a).pid, agent_of(world.b).pid),
        world.churn(world.far.address4) as out,
    ):
        held = world.hold(world.far.address4)
        assert held.result().end == "alive"
    out[0].check_all_served()


def test_an_agent_that_stops_drains_and_the_next_serves(world: World) -> None:
    """A stop is not an upgrade: while no agent runs, connections wait in the backlog. They are
    served when the next one starts within the holder's grace period (15 s)."""
    direct = world.hold(world.near.address4)
    with world.churn(world.far.address4) as out, world.churn(world.near.address4, 50) as near:
        assert agent_of(world.a).stop() == 0
        assert worker_pids(world.a) == []
        start_agent(world.a)
    out[0].check_all_served()
    near[0].check_all_served()
    assert direct.result().end == "alive"


def test_a_crash_of_agent_and_workers_together(world: World) -> None:
    """As after a kill of the whole service: the holder alone keeps the listeners."""
    holder = holder_pid(world.a)
    agent_of(world.a).kill()
    kill9(*worker_pids(world.a))
    direct = world.hold(world.near.address4)
    with world.churn(world.far.address4) as out:
        start_agent(world.a)
    out[0].check_all_served()
    assert holder_pid(world.a) == holder
    assert direct.result().end == "alive"
