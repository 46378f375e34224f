"""Policies as typed values, with the meaning of Istio's objects of the same name.

Only the L4 part is evaluated by a ztunnel. Whatever needs L7 is kept as `RequestMatch`, for
waypoints, and named in `Rule.l7_fields`, so that an evaluation point without L7 can deny, and say
so (Istio AuthorizationPolicy reference).
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


class TargetKind(StrEnum):
    """What `targetRefs` may point at."""

    SERVICE = "Service"
    SERVICE_ENTRY = "ServiceEntry"
    GATEWAY = "Gateway"
    GATEWAY_CLASS = "GatewayClass"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTarget:
    """One of `targetRefs`; `namespace` is the policy's own, and empty for a GatewayClass."""

    kind: TargetKind
    namespace: str
    name: str

    def __str__(self) -> str:
        path = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StringMatch:
    """One string of a policy: exact, `prefix*`, `*suffix` or `*` (present and not empty)."""

    kind: str
    """`exact`, `prefix`, `suffix` or `present`; for paths also `template`."""
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccountMatch:
    """An exact service account; the namespace defaults to the policy's own."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedMatch:
    """Strings wanted of a named part of a request.

    `name` is one header (lower case), or the way to a claim: `("realm", "roles")`.
    """

    name: tuple[str, ...]
    values: tuple[StringMatch, ...] = ()
    not_values: tuple[StringMatch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMatch:
    """The part of one source, operation or condition that only an HTTP proxy can judge.

    Lists mean what they mean in `L4Match`. Hosts are lower case.
    """

    request_principals: tuple[StringMatch, ...] = ()
    not_request_principals: tuple[StringMatch, ...] = ()
    remote_ips: tuple[IPNetwork, ...] = ()
    not_remote_ips: tuple[IPNetwork, ...] = ()
    hosts: tuple[StringMatch, ...] = ()
    not_hosts: tuple[StringMatch, ...] = ()
    methods: tuple[StringMatch, ...] = ()
    not_methods: tuple[StringMatch, ...] = ()
    paths: tuple[StringMatch, ...] = ()
    not_paths: tuple[StringMatch, ...] = ()
    audiences: tuple[StringMatch, ...] = ()
    not_audiences: tuple[StringMatch, ...] = ()
    presenters: tuple[StringMatch, ...] = ()
    not_presenters: tuple[StringMatch, ...] = ()
    snis: tuple[StringMatch, ...] = ()
    not_snis: tuple[StringMatch, ...] = ()
    header: NamedMatch | None = None
    claim: NamedMatch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class L4Match:
    """A conjunction over the facts of a connection.

    Each positive list must hold a hit unless it is empty; no negative list may hold a hit.
    `request` is the rest of the same conjunction, for points that see requests.
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
    request: RequestMatch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """from AND to AND when.

    Sources and operations are alternatives, every condition must hold (Istio: "at least one
    source, one operation and all conditions"). An empty clause holds always. `l7_fields` names the
    fields of this rule that need L7 (dotted, as in the object); a rule with any cannot be decided
    by a ztunnel. `unsupported` names those that no point of ours can decide.
    """

    sources: tuple[L4Match, ...] = ()
    operations: tuple[L4Match, ...] = ()
    conditions: tuple[L4Match, ...] = ()
    l7_fields: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicy:
    """ALLOW, DENY, AUDIT or CUSTOM rules on a set of workloads.

    `targets` goes with scope TARGET; `provider` names who decides a CUSTOM policy.
    """

    key: PolicyKey
    namespace: str
    name: str
    scope: PolicyScope
    action: PolicyAction
    rules: tuple[Rule, ...]
    selector: Mapping[str, str] = field(default_factory=dict)
    dry_run: bool = False
    targets: tuple[PolicyTarget, ...] = ()
    provider: str = ""


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
