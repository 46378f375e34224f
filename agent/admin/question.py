"""`authz check` as values: the question and the answer."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.model.verdict import Decision, RuleRef

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestQuestion:
    """The request that is sent over the connection.

    Attributes:
        host: empty = the service's own name.
        headers: name and value; a name may come several times.
        token: a JWT that is sent as a bearer token, empty = none.
        at: when, in seconds since the epoch: tokens have a time.
    """

    method: str = "GET"
    path: str = "/"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    token: str = ""
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthzQuestion:
    """May SRC connect to PORT of DST?

    `src` and `dst` are `<namespace>/<name>` of a workload, an IP address, or (src only) a SPIFFE
    ID; `dst` may also be `<namespace>/<name>` of a service. With `request`, the question is
    whether this request may be sent.
    """

    src: str
    dst: str
    port: int
    request: RequestQuestion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthzParty:
    """One side as it was found."""

    workload: str = ""
    address: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthzStep:
    """One rule or object in the order in which it was looked at.

    Attributes:
        what: the policy and rule.
        result: `matched`, `not matched`, or another short word of the engine.
        detail: which field made the difference.
        decided: this step was the last word.
    """

    what: str
    action: str
    result: str
    detail: str = ""
    decided: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthzAnswer:
    """The verdict and the way to it."""

    schema_version: int = SCHEMA_VERSION
    allowed: bool
    decision: Decision
    decided_by: RuleRef | None
    src: AuthzParty
    dst: AuthzParty
    port: int
    revision: int
    steps: tuple[AuthzStep, ...] = ()
    audited: tuple[RuleRef, ...] = ()
    dry_run: tuple[RuleRef, ...] = ()
    waypoint: str = ""
    """The waypoint that judges the request, empty without one."""
    providers: tuple[str, ...] = ()
    """External authorizers that have the last word, if the rules allow."""
