"""Waiting for something that may take long, and giving up when a process is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from mesh.errors import MeshnodeError

T = TypeVar("T")


async def until_stopped(work: Awaitable[T], stop: asyncio.Event) -> T | None:
    """The result of `work`, or None after a stop, which cancels it.

    Raises the `MeshnodeError` that `work` raises.
    """

    async def run() -> T | MeshnodeError:
        try:
            return await work
        except MeshnodeError as error:
            # Raised below: the task group would wrap it.
            return error

    async with asyncio.TaskGroup() as group:
        working, stopping = group.create_task(run()), group.create_task(stop.wait())
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        stopping.cancel()
    found = None if working.cancelled() else working.result()
    if isinstance(found, MeshnodeError):
        raise found
    return found
