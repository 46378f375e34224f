"""Policies as typed values, with the meaning of Istio's objects of the same name.

Only the L4 part is evaluated by a ztunnel. Whatever needs L7 is kept as `L7Match` so that an
evaluation point without L7 can deny, and say so (Istio AuthorizationPolicy reference;
`docs/policy.md`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from mesh.model.address import IPNetwork

PolicyKey = NewType("PolicyKey", str)
"""`<namespace>/<name>`."""


class PolicyScope(StrEnum):
    """Which workloads a policy applies to."""

    MESH = "mesh"
    NAMESPACE = "namespace"
    SELECTOR = "selector"
    TARGET = "target"


class PolicyAction(StrEnum):
    """What a matching rule means."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


@dataclass(frozen=True, slots=True, kw_only=True)
class StringMatch:
    """One string of a policy: exact, `prefix*`, `*suffix` or `*` (present and not empty)."""

    kind: str
    """`exact`, `prefix`, `suffix` or `present`."""
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccountMatch:
    """An exact service account; the namespace defaults to the policy's own."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class L4Match:
    """A conjunction over the facts of a connection.

    Each positive list must hold a hit unless it is empty; no negative list may hold a hit.
    """

    principals: tuple[StringMatch, ...] = ()
    not_principals: tuple[StringMatch, ...] = ()
    namespaces: tuple[StringMatch, ...] = ()
    not_namespaces: tuple[StringMatch, ...] = ()
    service_accounts: tuple[ServiceAccountMatch, ...] = ()
    not_service_accounts: tuple[ServiceAccountMatch, ...] = ()
    trust_domains: tuple[StringMatch, ...] = ()
    not_trust_domains: tuple[StringMatch, ...] = ()
    src_ips: tuple[IPNetwork, ...] = ()
    not_src_ips: tuple[IPNetwork, ...] = ()
    dst_ips: tuple[IPNetwork, ...] = ()
    not_dst_ips: tuple[IPNetwork, ...] = ()
    dst_ports: frozenset[int] = frozenset()
    not_dst_ports: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """from AND to AND when.

    Sources and operations are alternatives, every condition must hold (Istio: "at least one
    source, one operation and all conditions"). An empty clause holds always. `l7_fields` names the fields of this rule that need L7
    (dotted, as in the object); a rule with any cannot be decided here.
    """

    sources: tuple[L4Match, ...] = ()
    operations: tuple[L4Match, ...] = ()
    conditions: tuple[L4Match, ...] = ()
    l7_fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicy:
    """ALLOW, DENY, AUDIT or CUSTOM rules on a set of workloads."""

    key: PolicyKey
    namespace: str
    name: str
    scope: PolicyScope
    action: PolicyAction
    rules: tuple[Rule, ...]
    selector: Mapping[str, str] = field(default_factory=dict)
    dry_run: bool = False


class MtlsMode(StrEnum):
    """PeerAuthentication modes. UNSET inherits from the next wider scope."""

    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAuthentication:
    """Whether a workload takes plaintext; port modes only with a selector.

    `created` orders objects of one scope: the oldest wins (RFC 3339 text, then the name).
    """

    key: PolicyKey
    namespace: str
    name: str
    scope: PolicyScope
    mode: MtlsMode
    port_modes: Mapping[int, MtlsMode] = field(default_factory=dict)
    selector: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
