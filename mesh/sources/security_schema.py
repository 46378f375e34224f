"""Schemas of AuthorizationPolicy and PeerAuthentication, field by field as Istio's reference."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mesh.model.policy import MtlsMode, PolicyAction
from mesh.sources.objects import Metadata, Strict

Strings = tuple[str, ...] | None


class Source(Strict, frozen=True, kw_only=True):
    """rules[].from[].source."""

    principals: Strings = None
    not_principals: Strings = None
    request_principals: Strings = None
    not_request_principals: Strings = None
    namespaces: Strings = None
    not_namespaces: Strings = None
    service_accounts: Strings = None
    not_service_accounts: Strings = None
    trust_domains: Strings = None
    not_trust_domains: Strings = None
    ip_blocks: Strings = None
    not_ip_blocks: Strings = None
    remote_ip_blocks: Strings = None
    not_remote_ip_blocks: Strings = None


class From(Strict, frozen=True, kw_only=True):
    """rules[].from[]."""

    source: Source


class Operation(Strict, frozen=True, kw_only=True):
    """rules[].to[].operation."""

    hosts: Strings = None
    not_hosts: Strings = None
    ports: tuple[str | int, ...] | None = None
    not_ports: tuple[str | int, ...] | None = None
    methods: Strings = None
    not_methods: Strings = None
    paths: Strings = None
    not_paths: Strings = None


class To(Strict, frozen=True, kw_only=True):
    """rules[].to[]."""

    operation: Operation


class When(Strict, frozen=True, kw_only=True):
    """rules[].when[]."""

    key: str
    values: tuple[str | int, ...] | None = None
    not_values: tuple[str | int, ...] | None = None


class RuleSpec(Strict, frozen=True, kw_only=True):
    """rules[]."""

    from_: tuple[From, ...] | None = msgspec.field(default=None, name="from")
    to: tuple[To, ...] | None = None
    when: tuple[When, ...] | None = None


class Selector(Strict, frozen=True, kw_only=True):
    """spec.selector."""

    match_labels: Mapping[str, str] = {}


class TargetRef(Strict, frozen=True, kw_only=True):
    """spec.targetRefs[]."""

    kind: str
    name: str
    group: str = ""
    namespace: str = ""


class Provider(Strict, frozen=True, kw_only=True):
    """spec.provider of a CUSTOM policy."""

    name: str = ""


class AuthorizationPolicySpec(Strict, frozen=True, kw_only=True):
    """AuthorizationPolicy.spec."""

    selector: Selector | None = None
    target_ref: TargetRef | None = None
    target_refs: tuple[TargetRef, ...] = ()
    rules: tuple[RuleSpec, ...] = ()
    action: PolicyAction = PolicyAction.ALLOW
    provider: Provider | None = None


class AuthorizationPolicyObject(Strict, frozen=True, kw_only=True):
    """security.istio.io and meshnode.io AuthorizationPolicy."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()
    status: object = None


class Mtls(Strict, frozen=True, kw_only=True):
    """spec.mtls and the values of spec.portLevelMtls."""

    mode: MtlsMode = MtlsMode.UNSET


class PeerAuthenticationSpec(Strict, frozen=True, kw_only=True):
    """PeerAuthentication.spec."""

    selector: Selector | None = None
    mtls: Mtls = Mtls()
    port_level_mtls: Mapping[str, Mtls] = {}


class PeerAuthenticationObject(Strict, frozen=True, kw_only=True):
    """security.istio.io and meshnode.io PeerAuthentication."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()
    status: object = None
