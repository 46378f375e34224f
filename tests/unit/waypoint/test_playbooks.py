"""Traffic policies, from YAML to bytes, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.unit.waypoint.scene import Request, Say, objects, scene
from tests.unit.waypoint.virtual import play


def test_round_robin_takes_turns() -> None:
    async def main() -> None:
        async with scene(objects("loadBalancing: {algorithm: RoundRobin}")) as here:
            assert await here.send_many(30) == Counter({1: 10, 2: 10, 3: 10})

    play(main())
