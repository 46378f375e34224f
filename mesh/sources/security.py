"""AuthorizationPolicy and PeerAuthentication: checks, and the way from schema to model.

Stricter than Istio where leniency opens a hole: unknown `when` keys, empty lists, principals that
are no SPIFFE ID and ports or networks that do not parse are errors, not silence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mesh.model.policy import (
    AuthorizationPolicy,
    L4Match,
    PeerAuthentication,
    PolicyAction,
    PolicyKey,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
)
from mesh.sources.fields import (
    FieldError,
    FieldPath,
    parse_network,
    parse_port,
    parse_principal,
    parse_service_account,
    parse_string_form,
)
from mesh.sources.objects import Metadata
from mesh.sources.security_request import (
    EMPTY_LIST,
    Notes,
    condition_request,
    each,
    operation_request,
    source_request,
)
from mesh.sources.security_schema import (
    AuthorizationPolicyObject,
    AuthorizationPolicySpec,
    Operation,
    PeerAuthenticationObject,
    RuleSpec,
    Source,
    Strings,
    When,
)
from mesh.sources.security_targets import check_targets, read_targets

Parsed = TypeVar("Parsed")
Parser = Callable[[str, FieldPath], Parsed]

DRY_RUN_ANNOTATIONS = ("meshnode.io/dry-run", "istio.io/dry-run")
_MAX_SERVICE_ACCOUNTS = 16
"""Istio's limit (AuthorizationPolicy reference)."""


def peer_authentication(body: PeerAuthenticationObject) -> PeerAuthentication:
    """Turn the object into the model's value; raise `FieldError`."""
    spec, meta = body.spec, body.metadata
    selector = dict(spec.selector.match_labels) if spec.selector else {}
    at: FieldPath = ("spec", "portLevelMtls")
    if spec.port_level_mtls and not selector:
        raise FieldError(at, "port modes need a selector", at_key=True)
    return PeerAuthentication(
        key=PolicyKey(f"{meta.namespace}/{meta.name}"),
        namespace=meta.namespace,
        name=meta.name,
        scope=PolicyScope.SELECTOR if selector else PolicyScope.NAMESPACE,
        mode=spec.mtls.mode,
        port_modes={
            parse_port(port, (*at, port)): mtls.mode for port, mtls in spec.port_level_mtls.items()
        },
        selector=selector,
        created=meta.creation_timestamp,
    )


def authorization_policy(body: AuthorizationPolicyObject) -> AuthorizationPolicy:
    """Turn the object into the model's value; raise `FieldError`.

    Scope MESH is left to the reducer, who knows the root namespace.
    """
    spec, meta = body.spec, body.metadata
    check_targets(spec.selector, spec.target_ref, spec.target_refs)
    _check_provider(spec)
    selector = dict(spec.selector.match_labels) if spec.selector else {}
    scope = PolicyScope.SELECTOR if selector else PolicyScope.NAMESPACE
    targets = read_targets(spec.target_ref, spec.target_refs, meta.namespace)
    if targets:
        scope = PolicyScope.TARGET
    return AuthorizationPolicy(
        key=PolicyKey(f"{meta.namespace}/{meta.name}"),
        namespace=meta.namespace,
        name=meta.name,
        scope=scope,
        action=spec.action,
        rules=tuple(
            _rule(rule, meta.namespace, ("spec", "rules", number))
            for number, rule in enumerate(spec.rules)
        ),
        selector=selector,
        dry_run=_dry_run(meta),
        targets=targets,
        provider=spec.provider.name if spec.provider else "",
    )


def _check_provider(spec: AuthorizationPolicySpec) -> None:
    custom = spec.action is PolicyAction.CUSTOM
    if custom and spec.provider is None:
        raise FieldError(("spec", "action"), "CUSTOM needs a provider")
    if spec.provider is not None and not custom:
        raise FieldError(("spec", "provider"), "provider goes with action CUSTOM only", at_key=True)


def _dry_run(meta: Metadata) -> bool:
    for name in DRY_RUN_ANNOTATIONS:
        value = meta.annotations.get(name)
        if value not in (None, "true", "false"):
            at: FieldPath = ("metadata", "annotations", name)
            raise FieldError(at, f"{value!r} is neither 'true' nor 'false'")
    return any(meta.annotations.get(name) == "true" for name in DRY_RUN_ANNOTATIONS)


def _rule(spec: RuleSpec, namespace: str, at: FieldPath) -> Rule:
    for name, clause in (("from", spec.from_), ("to", spec.to), ("when", spec.when)):
        if clause == ():
            raise FieldError((*at, name), EMPTY_LIST, at_key=True)
    notes = Notes()
    return Rule(
        sources=tuple(
            _source(item.source, namespace, (*at, "from", number, "source"), notes)
            for number, item in enumerate(spec.from_ or ())
        ),
        operations=tuple(
            _operation(item.operation, (*at, "to", number, "operation"), notes)
            for number, item in enumerate(spec.to or ())
        ),
        conditions=tuple(
            _condition(item, namespace, (*at, "when", number), notes)
            for number, item in enumerate(spec.when or ())
        ),
        l7_fields=tuple(notes.l7),
        unsupported=tuple(notes.unsupported),
    )


def _source(source: Source, namespace: str, at: FieldPath, notes: Notes) -> L4Match:
    _check_source(source, at)

    def account(text: str, own: FieldPath) -> ServiceAccountMatch:
        return parse_service_account(text, namespace, own)

    def read(name: str, values: Strings, parse: Parser[Parsed]) -> tuple[Parsed, ...]:
        return each(values, (*at, name), parse)

    string, network = parse_string_form, parse_network
    return L4Match(
        principals=read("principals", source.principals, parse_principal),
        not_principals=read("notPrincipals", source.not_principals, parse_principal),
        namespaces=read("namespaces", source.namespaces, string),
        not_namespaces=read("notNamespaces", source.not_namespaces, string),
        service_accounts=read("serviceAccounts", source.service_accounts, account),
        not_service_accounts=read("notServiceAccounts", source.not_service_accounts, account),
        trust_domains=read("trustDomains", source.trust_domains, string),
        not_trust_domains=read("notTrustDomains", source.not_trust_domains, string),
        src_ips=read("ipBlocks", source.ip_blocks, network),
        not_src_ips=read("notIpBlocks", source.not_ip_blocks, network),
        request=source_request(source, at, notes),
    )


def _check_source(source: Source, at: FieldPath) -> None:
    if source == Source():
        raise FieldError(at, "source is empty: it would match everything", at_key=True)
    accounts = (
        ("serviceAccounts", source.service_accounts),
        ("notServiceAccounts", source.not_service_accounts),
    )
    for name, values in accounts:
        if len(values or ()) > _MAX_SERVICE_ACCOUNTS:
            raise FieldError((*at, name), f"at most {_MAX_SERVICE_ACCOUNTS} are allowed")
        for other, others in (("principals", source.principals), ("namespaces", source.namespaces)):
            if values and others:
                raise FieldError(
                    (*at, other), f"{name} and {other} exclude each other", at_key=True
                )


def _operation(operation: Operation, at: FieldPath, notes: Notes) -> L4Match:
    if operation == Operation():
        raise FieldError(at, "operation is empty: it would match everything", at_key=True)
    return L4Match(
        dst_ports=frozenset(each(operation.ports, (*at, "ports"), parse_port)),
        not_dst_ports=frozenset(each(operation.not_ports, (*at, "notPorts"), parse_port)),
        request=operation_request(operation, at, notes),
    )


def _condition(when: When, namespace: str, at: FieldPath, notes: Notes) -> L4Match:
    if when.values is None and when.not_values is None:
        raise FieldError((*at, "key"), "a condition needs values or notValues")
    at_values, at_not = (*at, "values"), (*at, "notValues")

    def both(
        parse: Parser[Parsed],
    ) -> tuple[tuple[Parsed, ...], tuple[Parsed, ...]]:
        return each(when.values, at_values, parse), each(when.not_values, at_not, parse)

    match when.key:
        case "source.ip":
            src, not_src = both(parse_network)
            return L4Match(src_ips=src, not_src_ips=not_src)
        case "destination.ip":
            dst, not_dst = both(parse_network)
            return L4Match(dst_ips=dst, not_dst_ips=not_dst)
        case "source.namespace":
            namespaces, not_namespaces = both(parse_string_form)
            return L4Match(namespaces=namespaces, not_namespaces=not_namespaces)
        case "source.principal":
            principals, not_principals = both(parse_principal)
            return L4Match(principals=principals, not_principals=not_principals)
        case "source.serviceAccount":
            own, not_own = both(lambda text, path: parse_service_account(text, namespace, path))
            return L4Match(service_accounts=own, not_service_accounts=not_own)
        case "destination.port":
            ports, not_ports = both(parse_port)
            return L4Match(dst_ports=frozenset(ports), not_dst_ports=frozenset(not_ports))
        case _:
            return L4Match(request=condition_request(when, at, notes))
