"""AuthorizationPolicy and PeerAuthentication: checks, and the way from schema to model.

Stricter than Istio where leniency opens a hole: unknown `when` keys, empty lists, principals that
are no SPIFFE ID and ports or networks that do not parse are errors, not silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    format_path,
    parse_network,
    parse_port,
    parse_principal,
    parse_service_account,
    parse_string_form,
)
from mesh.sources.objects import Metadata
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
from mesh.sources.suggest import did_you_mean

Parsed = TypeVar("Parsed")
Parser = Callable[[str, FieldPath], Parsed]

DRY_RUN_ANNOTATIONS = ("meshnode.io/dry-run", "istio.io/dry-run")
# Istio's limits (AuthorizationPolicy reference).
_MAX_SERVICE_ACCOUNTS = 16
_MAX_TARGETS = 16


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
    _check_combination(spec)
    selector = dict(spec.selector.match_labels) if spec.selector else {}
    scope = PolicyScope.SELECTOR if selector else PolicyScope.NAMESPACE
    if spec.target_ref or spec.target_refs:
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
    )


def _check_combination(spec: AuthorizationPolicySpec) -> None:
    at_selector: FieldPath = ("spec", "selector")
    if spec.selector and (spec.target_ref or spec.target_refs):
        other = "targetRef" if spec.target_ref else "targetRefs"
        raise FieldError(at_selector, f"selector and {other} exclude each other", at_key=True)
    if spec.target_ref and spec.target_refs:
        at: FieldPath = ("spec", "targetRef")
        raise FieldError(at, "targetRef and targetRefs exclude each other", at_key=True)
    if len(spec.target_refs) > _MAX_TARGETS:
        raise FieldError(("spec", "targetRefs"), f"at most {_MAX_TARGETS} targets are allowed")
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
            raise FieldError((*at, name), _EMPTY_LIST, at_key=True)
    l7: list[str] = []
    return Rule(
        sources=tuple(
            _source(item.source, namespace, (*at, "from", number, "source"), l7)
            for number, item in enumerate(spec.from_ or ())
        ),
        operations=tuple(
            _operation(item.operation, (*at, "to", number, "operation"), l7)
            for number, item in enumerate(spec.to or ())
        ),
        conditions=tuple(
            _condition(item, namespace, (*at, "when", number), l7)
            for number, item in enumerate(spec.when or ())
        ),
        l7_fields=tuple(l7),
    )


_EMPTY_LIST = "the list is empty: it would match everything. Leave the field out, or fill it"


def _each(
    values: Sequence[str | int] | None, at: FieldPath, parse: Parser[Parsed]
) -> tuple[Parsed, ...]:
    if values is None:
        return ()
    if not values:
        raise FieldError(at, _EMPTY_LIST, at_key=True)
    return tuple(parse(str(value), (*at, number)) for number, value in enumerate(values))


def _note_l7(fields: Mapping[str, Strings], at: FieldPath, l7: list[str]) -> None:
    """Check the string forms of fields that need L7, and remember their names."""
    for name, values in fields.items():
        if _each(values, (*at, name), _check_l7):
            l7.append(format_path((*at[3:], name)))


def _check_l7(text: str, at: FieldPath) -> str:
    if not text:
        raise FieldError(at, "an empty string matches nothing")
    return text


def _source(source: Source, namespace: str, at: FieldPath, l7: list[str]) -> L4Match:
    _check_source(source, at)
    _note_l7(
        {
            "requestPrincipals": source.request_principals,
            "notRequestPrincipals": source.not_request_principals,
            "remoteIpBlocks": source.remote_ip_blocks,
            "notRemoteIpBlocks": source.not_remote_ip_blocks,
        },
        at,
        l7,
    )

    def account(text: str, own: FieldPath) -> ServiceAccountMatch:
        return parse_service_account(text, namespace, own)

    def read(name: str, values: Strings, parse: Parser[Parsed]) -> tuple[Parsed, ...]:
        return _each(values, (*at, name), parse)

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


def _operation(operation: Operation, at: FieldPath, l7: list[str]) -> L4Match:
    if operation == Operation():
        raise FieldError(at, "operation is empty: it would match everything", at_key=True)
    _note_l7(
        {
            "hosts": operation.hosts,
            "notHosts": operation.not_hosts,
            "methods": operation.methods,
            "notMethods": operation.not_methods,
            "paths": operation.paths,
            "notPaths": operation.not_paths,
        },
        at,
        l7,
    )
    return L4Match(
        dst_ports=frozenset(_each(operation.ports, (*at, "ports"), parse_port)),
        not_dst_ports=frozenset(_each(operation.not_ports, (*at, "notPorts"), parse_port)),
    )


_L4_KEYS = (
    "source.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "destination.ip",
    "destination.port",
)
_L7_KEYS = (
    "remote.ip",
    "connection.sni",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
)
_L7_PREFIXES = ("request.headers[", "request.auth.claims[", "experimental.envoy.filters.")


def _condition(when: When, namespace: str, at: FieldPath, l7: list[str]) -> L4Match:
    if when.values is None and when.not_values is None:
        raise FieldError((*at, "key"), "a condition needs values or notValues")
    at_values, at_not = (*at, "values"), (*at, "notValues")

    def both(
        parse: Parser[Parsed],
    ) -> tuple[tuple[Parsed, ...], tuple[Parsed, ...]]:
        return _each(when.values, at_values, parse), _each(when.not_values, at_not, parse)

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
            _check_l7_key(when.key, (*at, "key"))
            both(_check_l7)
            l7.append(f"{format_path(at[3:])}.{when.key}")
            return L4Match()


def _check_l7_key(key: str, at: FieldPath) -> None:
    if key in _L7_KEYS:
        return
    if key.startswith(_L7_PREFIXES) and (key.endswith("]") or "[" not in key):
        return
    hint = did_you_mean(key, (*_L4_KEYS, *_L7_KEYS, *_L7_PREFIXES))
    raise FieldError(at, f"unknown key {key!r}{hint}")
