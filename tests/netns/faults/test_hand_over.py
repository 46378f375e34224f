"""An upgrade as a DaemonSet does it: the next agent stands by, the one before hands over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import eventually
from tests.netns.faults.world import World, agent_of, holder_pid, start_agent, worker_pids

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(autouse=True)
def ordinary_afterwards(world: World) -> Iterator[None]:
    yield
    if agent_of(world.a).running:
        agent_of(world.a).kill()
    start_agent(world.a)
    world.check_served()


def test_an_upgrade_refuses_nothing_and_cuts_nothing(world: World) -> None:
    agent_of(world.a).kill()
    old = start_agent(world.a, "--hand-over")
    holder, before = holder_pid(world.a), worker_pids(world.a)
    tunnelled, direct = world.hold(world.far.address4), world.hold(world.near.address4)
    with world.churn(world.far.address4) as out, world.churn(world.near.address4, 50) as near:
        # The old one answers for it meanwhile, as it answers the kubelet's probes.
        new = start_agent(world.a, "--hand-over")
        eventually(lambda: "standing by" in new.log_tail(), 30.0, "the next agent stands by")
        assert old.running, "nobody ends an agent but the kubelet"
        assert old.stop() == 0
        new.wait_ready(30.0)
    out[0].check_all_served()
    near[0].check_all_served()
    assert holder_pid(world.a) == holder
    assert tunnelled.result().end == "alive"
    assert direct.result().end == "alive"
    eventually(lambda: not set(before) & set(worker_pids(world.a)), 30.0, "old workers are gone")
