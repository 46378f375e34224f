"""A request for an identity that the CA has not heard of yet waits, but not for ever."""

from __future__ import annotations

import asyncio

from mesh.identity.arrivals import MAX_WAITING_OF_NODE, Arrivals
from mesh.model.identity import SpiffeId
from tests.unit.mesh.identity.builders import NODE, spiffe
from tests.unit.mesh.identity.virtual_time import run_virtual


class World:
    """A directory that learns."""

    def __init__(self) -> None:
        self.known: set[tuple[SpiffeId, str]] = set()
        self.changed = asyncio.Event()
        self.arrivals = Arrivals(self, lambda: self.changed, patience_s=3.0)

    def runs_on(self, identity: SpiffeId, node: str) -> bool:
        return (identity, node) in self.known

    def learn(self, identity: SpiffeId, node: str) -> None:
        self.known.add((identity, node))
        self.changed.set()
        self.changed = asyncio.Event()


def now() -> float:
    return asyncio.get_running_loop().time()


def test_what_is_known_does_not_wait() -> None:
    async def run() -> None:
        world = World()
        world.learn(spiffe("web"), NODE)
        await world.arrivals.wait(spiffe("web"), NODE)
        assert now() == 0.0

    run_virtual(run())


def test_a_pod_that_comes_meanwhile_is_waited_for_and_no_longer() -> None:
    async def run() -> None:
        world = World()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(world.arrivals.wait(spiffe("web"), NODE))
            await asyncio.sleep(0.5)
            world.learn(spiffe("web"), "another")
            await asyncio.sleep(0.5)
            assert not waiting.done()
            world.learn(spiffe("web"), NODE)
        assert now() == 1.0

    run_virtual(run())


def test_a_pod_that_never_comes_costs_a_moment_whatever_else_changes() -> None:
    async def run() -> None:
        world = World()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(world.arrivals.wait(spiffe("web"), NODE))
            for number in range(10):
                await asyncio.sleep(0.4)
                world.learn(spiffe(f"other-{number}"), NODE)
                assert waiting.done() == (now() > 3.0)

    run_virtual(run())


def test_a_node_that_asks_for_too_much_is_not_waited_for() -> None:
    async def run() -> None:
        world = World()
        async with asyncio.TaskGroup() as group:
            for number in range(MAX_WAITING_OF_NODE):
                group.create_task(world.arrivals.wait(spiffe(f"none-{number}"), NODE))
            await asyncio.sleep(0.5)
            await world.arrivals.wait(spiffe("one-more"), NODE)
            assert now() == 0.5
            await world.arrivals.wait(spiffe("web"), "another")
            assert now() == 3.5
            await world.arrivals.wait(spiffe("again"), NODE)
            assert now() == 6.5

    run_virtual(run())
