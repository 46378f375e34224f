"""Patience with pods that are newer than what the CA has heard of.

A node knows of its pod before the CA does: both hear of it from the API server, and the address
of a starting pod is known on its node first. A refusal would cost the pod's first connections, so
a request waits for the next word of the source: briefly, and not too many at a time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from mesh.identity.directory import IdentityDirectory
from mesh.model.identity import SpiffeId

PATIENCE_S = 3.0
"""Below the time after which an agent gives up a request, and pods their first connections."""
MAX_WAITING = 1024
MAX_WAITING_OF_NODE = 64


class Arrivals:
    """Holds requests for identities that do not run where they are asked for yet.

    Args:
        next_change: an event that is set, and replaced by another, when the directory may know
            more.
    """

    def __init__(
        self,
        directory: IdentityDirectory,
        next_change: Callable[[], asyncio.Event],
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._directory = directory
        self._next_change = next_change
        self._patience_s = patience_s
        self._waiting: Counter[str] = Counter()

    async def wait(self, identity: SpiffeId, node: str) -> None:
        """Return once the identity runs on the node, or when there is no more patience."""
        if self._waiting.total() >= MAX_WAITING or self._waiting[node] >= MAX_WAITING_OF_NODE:
            return
        self._waiting[node] += 1
        try:
            async with asyncio.timeout(self._patience_s):
                await self._arrived(identity, node)
        except TimeoutError:
            return
        finally:
            self._waiting[node] -= 1
            if not self._waiting[node]:
                del self._waiting[node]

    async def _arrived(self, identity: SpiffeId, node: str) -> None:
        while True:
            # Asked for first: a change after the look must not be missed.
            change = self._next_change()
            if self._directory.runs_on(identity, node):
                return
            await change.wait()
