"""A result, and a stop while it is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from mesh.errors import ConfigError
from mesh.sources.objects import ObjectSet
from mesh.stopping import until_stopped


async def _sets() -> AsyncGenerator[ObjectSet, None]:
    yield ObjectSet()


async def _silence() -> AsyncGenerator[ObjectSet, None]:
    await asyncio.Event().wait()
    yield ObjectSet()


async def _broken() -> AsyncGenerator[ObjectSet, None]:
    for directory in ("one", "two"):
        if directory:
            raise ConfigError("no such directory")
        yield ObjectSet()


def test_the_first_set_is_returned_and_the_rest_still_follows() -> None:
    async def run() -> None:
        changes = _sets()
        assert await until_stopped(anext(changes), asyncio.Event()) == ObjectSet()
        assert [item async for item in changes] == []

    asyncio.run(run())


def test_a_stop_ends_the_wait() -> None:
    async def run() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_soon(stop.set)
        async with asyncio.timeout(10):
            assert await until_stopped(anext(_silence()), stop) is None

    asyncio.run(run())


def test_an_error_of_the_source_is_raised_as_it_is() -> None:
    async def run() -> None:
        with pytest.raises(ConfigError, match="no such directory"):
            await until_stopped(anext(_broken()), asyncio.Event())

    asyncio.run(run())
