"""Whatever of the mesh dies: in STRICT nothing is ever sent in plaintext, and nobody hangs."""

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
    for node in (world.a, world.b):
        agent_of(node).wait_ready()
    world.check_served()


def check_refused(world: World, address: str, secret: str) -> None:
    asked = world.ask(address, secret)
    assert asked.failed_fast, asked


@pytest.mark.parametrize("side", ["a", pytest.param("b", marks=pytest.mark.slow)])
def test_no_worker_is_left(world: World, side: str) -> None:
    node = world.lab.node(side)

    def attack(secret: str) -> None:
        with frozen(agent_of(node).pid):
            kill9(*worker_pids(node))
            check_refused(world, world.far.address4, secret)
            # Inside a node no worker is needed.
            assert world.ask(world.near.address4, secret).end == "ok"

    world.check_never_plain(attack)


def test_one_worker_of_two_is_killed(world: World) -> None:
    with world.churn(world.far.address4) as results, world.churn(world.near.address4, 30) as direct:
        kill9(worker_pids(world.a)[0])
        agent_of(world.a).wait_ready()
    # A killed process takes the connections with it that it held at that instant; no new one may
    # be refused.
    result = results[0]
    assert not [bad for bad in result.bad if "REFUSED" in bad[2] or bad[2] == "hang"], result.bad
    assert len(result.bad) <= result.total // 4, result.bad
    direct[0].check_all_served()


def test_the_holder_is_killed(world: World) -> None:
    before = holder_pid(world.a)
    tunnelled, direct = world.hold(world.far.address4), world.hold(world.near.address4)
    with world.churn(world.far.address4) as out:
        kill9(before)
        eventually(lambda: holder_pid(world.a) not in (0, before), 30.0, "a new holder")
        agent_of(world.a).wait_ready()
    out[0].check_all_served()
    assert direct.result().end == "alive"
    assert tunnelled.result().end in ("alive", "ECONNRESET", "closed")  # drained after 2 s


def test_the_holder_of_the_server_is_killed(world: World) -> None:
    before = holder_pid(world.b)
    with world.churn(world.far.address4) as out:
        kill9(before)
        eventually(lambda: holder_pid(world.b) not in (0, before), 30.0, "a new holder")
        agent_of(world.b).wait_ready()
    out[0].check_all_served()


@pytest.mark.parametrize("side", ["a", "b"])
def test_holder_agent_and_workers_are_killed(world: World, side: str) -> None:
    node = world.lab.node(side)

    def attack(secret: str) -> None:
        agent_of(node).kill()
        kill9(holder_pid(node), *worker_pids(node))
        for address in (world.far.address4, world.far.address6):
            check_refused(world, address, secret)

    world.check_never_plain(attack)


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(world: World) -> None:
    held = [world.hold(world.far.address4) for _ in range(8)]
    stuck = worker_pids(world.a)[0]
    with frozen(stuck), world.churn(world.far.address4) as out:
        eventually(lambda: stuck not in worker_pids(world.a), 30.0, "it is killed")
        eventually(lambda: len(worker_pids(world.a)) == 2, 30.0, "another one is started")
        agent_of(world.a).wait_ready()
    result = out[0]
    # What the stuck one had accepted ends with it; nobody else notices.
    assert not [bad for bad in result.bad if bad[2] == "hang"], result.bad
    assert len(result.bad) <= result.total // 4, result.bad
    ends = {one.result(stop=one.running).end for one in held}
    assert ends <= {"alive", "ECONNRESET", "closed"}, ends
