"""What policy says about a request; the seam between router and policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mesh.http1.message import Headers
from waypoint.routing.plan import Cancellable, Marks, Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The request may pass.

    Attributes:
        response_headers: set in the response by whoever was asked.
        granted: somebody was asked, who may have changed the request.
    """

    marks: Marks | None = None
    response_headers: Headers | None = None
    granted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """Policy has to wait for something; see `waypoint.routing.plan.Wait`."""

    begin: Callable[[bytes, bool, Callable[[Judgement], None]], Cancellable]
    body_bytes: int = 0


Judgement = Reply | Admitted | Later
