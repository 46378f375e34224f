"""What policy says about a connection, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mesh.model.address import SocketAddress
from mesh.model.identity import SpiffeId
from mesh.model.policy import PolicyKey


class Decision(StrEnum):
    """Why a verdict came out as it did."""

    NO_POLICY = "no_policy"
    """No ALLOW policy applies: everything that no DENY rule matched is allowed."""
    ALLOW_RULE = "allow_rule"
    DENY_RULE = "deny_rule"
    NO_ALLOW_MATCH = "no_allow_match"
    """ALLOW policies apply and none of their rules matched."""
    STRICT_MTLS = "strict_mtls"
    """PeerAuthentication is STRICT and the peer has no verified identity."""
    NEEDS_L7 = "needs_l7"
    """A rule that needs L7 applies and this point has none: fail closed."""
    INVALID_TOKEN = "invalid_token"
    """The request carries a token that is not to be believed (answered with 401)."""
    UNSUPPORTED = "unsupported"
    """A rule that no point of ours can judge applies: fail closed."""
    PROVIDER = "provider"
    """An external authorizer denied, or could not be asked and its policy fails closed."""
    UNKNOWN_PROVIDER = "unknown_provider"
    """A CUSTOM policy applies whose provider is not configured: fail closed."""
    WAYPOINT_REQUIRED = "waypoint_required"
    """The destination is behind a waypoint and the peer is not that waypoint."""
    UNKNOWN_DESTINATION = "unknown_destination"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFacts:
    """What is known about a connection when it is judged.

    Attributes:
        principal: verified identity of the peer; None for plaintext.
        src: address the connection comes from; the port is 0 where it is not known.
        dst: address of the application that is asked for.
    """

    principal: SpiffeId | None
    src: SocketAddress
    dst: SocketAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRef:
    """The rule that decided. `kind` is the object's kind; `rule` is its index in `spec.rules`
    (None where the object as a whole decided)."""

    kind: str
    policy: PolicyKey
    rule: int | None = None

    def __str__(self) -> str:
        where = "" if self.rule is None else f" rule[{self.rule}]"
        return f"{self.kind} {self.policy}{where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Allow or deny, plus what decided.

    Attributes:
        decided_by: the rule, where one did; for NO_ALLOW_MATCH one of the ALLOW policies.
        audited: AUDIT rules that matched; dry_run: dry-run policies that would have denied.
    """

    allowed: bool
    decision: Decision
    decided_by: RuleRef | None = None
    audited: tuple[RuleRef, ...] = ()
    dry_run: tuple[RuleRef, ...] = ()

    def __str__(self) -> str:
        by = f" by {self.decided_by}" if self.decided_by else ""
        return f"{'allowed' if self.allowed else 'denied'}{by} ({self.decision})"
