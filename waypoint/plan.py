"""What routing says about a request; the seam between the data path and the routes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mesh.http1.message import Headers, RequestHead
from mesh.model.request import RequestFlag
from waypoint.contract import Origin
from waypoint.target import Group

DEFAULT_TRIES = 2
"""Further tries for requests that were never sent (Istio's default has two)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """When to try again, beyond what is always safe.

    Attributes:
        attempts: tries after the first.
        codes: statuses of a response that are tried again, for idempotent methods only.
    """

    attempts: int = DEFAULT_TRIES
    codes: frozenset[int] = frozenset()
    backoff_s: float = 0.025
    on_failure: bool = False
    """A route says so: failed connections are tried again too, for idempotent methods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Send the request, which the router has edited in place, to one endpoint of a group."""

    group: Group
    route: str = "default"
    request_timeout_s: float | None = None
    try_timeout_s: float | None = None
    retry: RetryRule = RetryRule()
    finish: Callable[[int, Headers], Headers] | None = None
    """Response filters: status and headers to headers."""
    mirrors: tuple[Group, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Answer without an upstream."""

    status: int
    text: str = ""
    headers: Headers | None = None
    flag: RequestFlag = RequestFlag.NONE
    details: str = "direct_response"
    route: str = ""


class Router(Protocol):
    """Judges and routes: policy, route, filters."""

    def plan(self, origin: Origin, head: RequestHead) -> Forward | Reply: ...
