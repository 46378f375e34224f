"""Decides when a pod may start: once the node has captured it, or once it is known to be none of
the mesh's.

A pod is announced to the source first: the API server learns its addresses only after the plugin
has ended, and nobody but the plugin knows its namespace while no process runs in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from agent.cni.request import CniError, Code, Command, Request, Sandbox

POLL_S = 0.05


class Standing(StrEnum):
    """Where a pod stands with this node."""

    UNKNOWN = "unknown"
    """The source has not shown it yet."""
    OUTSIDE = "outside"
    PENDING = "pending"
    ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class Finding:
    """Where a pod stands, and what is in the way."""

    standing: Standing
    reason: str = ""


class Announcements(Protocol):
    """Takes note of sandboxes; `NodeObjects` in a cluster."""

    def announce(self, sandbox: Sandbox) -> None: ...
    def forget(self, sandbox: Sandbox) -> None: ...


class Admission:
    """The answer to each question of the plugin.

    Args:
        look: where a pod stands now.
        deadline_s: how long a start may wait; a bit less than the plugin's own time.
    """

    def __init__(
        self,
        announcements: Announcements,
        look: Callable[[Sandbox], Finding],
        *,
        deadline_s: float,
    ) -> None:
        self._announcements = announcements
        self._look = look
        self._deadline_s = deadline_s

    async def decide(self, request: Request) -> None:
        """Return when the runtime may go on. Raises `CniError`."""
        sandbox = request.sandbox
        if sandbox is None:
            return
        match request.command:
            case Command.ADD:
                self._announcements.announce(sandbox)
                await self._wait(sandbox)
            case Command.DEL:
                self._announcements.forget(sandbox)
            case Command.CHECK:
                found = self._look(sandbox)
                if found.standing not in (Standing.ACTIVE, Standing.OUTSIDE):
                    raise _refusal(sandbox, found)
            case Command.STATUS:
                return

    async def _wait(self, sandbox: Sandbox) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._deadline_s
        while True:
            found = self._look(sandbox)
            if found.standing in (Standing.ACTIVE, Standing.OUTSIDE):
                return
            if loop.time() >= end:
                raise _refusal(sandbox, found)
            await asyncio.sleep(POLL_S)


def _refusal(sandbox: Sandbox, found: Finding) -> CniError:
    pod = f"pod {sandbox.namespace}/{sandbox.name}"
    if found.standing is Standing.UNKNOWN:
        text = f"{pod}: this node's agent has not heard of it from the API server"
    else:
        text = f"{pod} is to be in the mesh and is not captured: {found.reason or 'not yet'}"
    return CniError(Code.TRY_LATER, text)
