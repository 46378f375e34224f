"""Right and wrong frames on connections whose requests the lane takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random

import pytest

from mesh.model.address import SocketAddress, parse_ip
from tests.contract.http1.laned import USE_H2_LANE
from tests.contract.http1.stage import Stage, run, stage
from tests.contract.waypoint import h2_frames as f
from tests.contract.waypoint.h2_table import CASES
from tests.contract.waypoint.test_h2_lane import under_way, wait_for
from tests.contract.waypoint.test_h2spec import check, hello, peer

MUTANTS = 250


@contextlib.asynccontextmanager
async def two_stages() -> AsyncIterator[Stage]:
    """Before a proxy that speaks HTTP/2 stands another, whose lane knows the usual requests."""
    async with stage(hello) as inner:
        address = SocketAddress(parse_ip("127.0.0.1"), inner.port_h2)
        token = USE_H2_LANE.set(True)
        try:
            async with stage(addresses=(address,), app_protocol="kubernetes.io/h2c") as here:
                await ask(here)
                yield here
        finally:
            USE_H2_LANE.reset(token)


async def ask(here: Stage) -> None:
    async with peer(here) as client:
        for stream, fields in ((1, f.GET), (3, f.POST)):
            client.send(f.headers(stream, fields))
            await client.until_end_of(stream)
            assert client.seen.status == {**client.seen.status, stream: 200}


def taken(here: Stage) -> int:
    assert here.h2_lane is not None
    return here.h2_lane.taken


@pytest.mark.slow
def test_every_section_holds_in_the_lane() -> None:
    async def main() -> None:
        async with two_stages() as here:
            for case in CASES:
                before = taken(here)
                await check(here, case)
                await ask(here)
                assert taken(here) >= before + 2, case.name
            await wait_for(lambda: not under_way(here))

    run(main())


def mutant(random: Random) -> bytes:
    """Usual requests, with some bytes changed, left out or doubled."""
    frames = [f.settings((4, 100)), f.window(1000), f.ping()]
    for stream in range(1, 21, 2):
        if random.random() < 0.5:
            frames.append(f.headers(stream))
        else:
            frames.append(f.headers(stream, f.POST, end=False))
            body = b"x" * random.randrange(200)
            frames.append(f.data(body, stream, end=random.random() < 0.7))
        if random.random() < 0.3:
            frames.append(f.rst(stream))
    text = bytearray(b"".join(frames))
    for _ in range(random.randrange(4)):
        at = random.randrange(len(text))
        match random.randrange(3):
            case 0:
                text[at] ^= 1 << random.randrange(8)
            case 1:
                del text[at : at + random.randrange(20)]
            case _:
                text[at:at] = text[at : at + random.randrange(20)]
    return bytes(text)


@pytest.mark.slow
def test_mutated_frames_leave_the_lane_whole() -> None:
    async def main() -> None:
        async with two_stages() as here:
            for seed in range(MUTANTS):
                random = Random(seed)
                async with await here.connect(here.port_h2) as client:
                    client.send(f.HELLO)
                    text = mutant(random)
                    while text and not client.writer.is_closing():
                        size = random.randrange(1, 200)
                        client.send(text[:size])
                        text = text[size:]
                        await asyncio.sleep(0)
                    with contextlib.suppress(TimeoutError, ConnectionError):
                        async with asyncio.timeout(0.02):
                            await client.reader.read()
            assert taken(here) > MUTANTS
            await wait_for(lambda: not under_way(here))
            await ask(here)

    run(main())
