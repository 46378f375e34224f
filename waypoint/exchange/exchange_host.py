"""What an exchange needs of its worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from mesh.http1.message import RequestHead
from waypoint.exchange.mirror import Copies
from waypoint.limits import ProxyLimits
from waypoint.routing.plan import Forward, Reply, Wait
from waypoint.upstream.pool import Pool
from waypoint.upstream.target import Target

if TYPE_CHECKING:
    from waypoint.exchange.exchange import Exchange


class ExchangeHost(Protocol):
    """The proxy, as its exchanges see it."""

    loop: asyncio.AbstractEventLoop
    limits: ProxyLimits
    pool: Pool

    def now(self) -> float:
        """Monotonic seconds; the loop's own clock ticks in milliseconds."""

    def plan(self, exchange: Exchange) -> Forward | Reply | Wait: ...
    def pick(self, forward: Forward, avoid: Target | None) -> Target | None: ...
    def backoff_s(self, tries: int, forward: Forward) -> float: ...
    def mirror(self, forward: Forward, head: RequestHead) -> Copies | None: ...
    def switched(self, exchange: Exchange) -> None: ...
    def ended(self, exchange: Exchange) -> None: ...
