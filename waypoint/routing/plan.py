"""What routing says about a request; the seam between the data path and the routes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mesh.http1.message import Headers, RequestHead
from mesh.model.request import RequestFlag
from waypoint.contract import Origin
from waypoint.resilience.protection import Protection
from waypoint.upstream.target import Group

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
    """Connections that broke are tried again too, for idempotent methods."""
    on_timeout: bool = False
    """So are tries that took too long."""
    grpc_codes: frozenset[int] = frozenset()
    """Statuses of calls answered without a message that are tried again."""
    max_backoff_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What policy noted about a request, for logs and metrics.

    Attributes:
        policy: the rule that refused, empty if none did.
        audited: AUDIT rules that matched; dry_run: dry-run policies that would have denied.
    """

    policy: str = ""
    audited: tuple[str, ...] = ()
    dry_run: tuple[str, ...] = ()


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
    marks: Marks | None = None
    protection: Protection | None = None
    """What a TrafficPolicy asks for; None costs nothing."""
    granted: Headers | None = None
    """The request's headers after whoever was asked about it changed them."""
    steady: bool = False
    """The same for every request that agrees in what policy and routes look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Answer without an upstream."""

    status: int
    text: str = ""
    headers: Headers | None = None
    flag: RequestFlag = RequestFlag.NONE
    details: str = "direct_response"
    route: str = ""
    marks: Marks | None = None


class Cancellable(Protocol):
    """Something that is under way."""

    def cancel(self) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """The plan comes later: an authorizer is asked, or keys of an issuer are fetched.

    Attributes:
        begin: start, with what there is of the body and whether that is all of it. The last
            argument is called once with the plan, never from inside, and not after a cancel.
        body_bytes: how much of the body is wanted first. No more is kept than of any request.
    """

    begin: Callable[[bytes, bool, Callable[[Forward | Reply | Wait], None]], Cancellable]
    body_bytes: int = 0


class Router(Protocol):
    """Judges and routes: policy, route, filters."""

    def plan(self, origin: Origin, head: RequestHead) -> Forward | Reply | Wait: ...
