"""The fields of an AuthorizationPolicy that only an HTTP proxy can judge, from text to model.

A value that could never match is an error: in a DENY policy it would be a hole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from mesh.model.policy import NamedMatch, RequestMatch, StringMatch
from mesh.sources.fields import (
    FieldError,
    FieldPath,
    format_path,
    parse_network,
    parse_string_form,
)
from mesh.sources.http_fields import parse_header_name
from mesh.sources.security_schema import Operation, Source, When
from mesh.sources.suggest import did_you_mean

Parsed = TypeVar("Parsed")
Parser = Callable[[str, FieldPath], Parsed]

EMPTY_LIST = "the list is empty: it would match everything. Leave the field out, or fill it"

L4_KEYS = (
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
_HEADER = "request.headers["
_CLAIM = "request.auth.claims["
_FILTERS = "experimental.envoy.filters."
_HEADER_KEY = re.compile(r"request\.headers\[([^\[\]]+)\]")
_CLAIM_KEY = re.compile(r"request\.auth\.claims((?:\[[^\[\]]+\])+)")
_METHODS = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")


@dataclass(slots=True)
class Notes:
    """What is learnt about a rule on the way: the fields that need L7, or more than we have."""

    l7: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)


def each(
    values: Sequence[str | int] | None, at: FieldPath, parse: Parser[Parsed]
) -> tuple[Parsed, ...]:
    """Parse every value of a list; an empty list is an error."""
    if values is None:
        return ()
    if not values:
        raise FieldError(at, EMPTY_LIST, at_key=True)
    return tuple(parse(str(value), (*at, number)) for number, value in enumerate(values))


def source_request(source: Source, at: FieldPath, notes: Notes) -> RequestMatch | None:
    """Read what a source says about the request."""
    text, network = parse_string_form, parse_network
    match = RequestMatch(
        request_principals=each(source.request_principals, (*at, "requestPrincipals"), text),
        not_request_principals=each(
            source.not_request_principals, (*at, "notRequestPrincipals"), text
        ),
        remote_ips=each(source.remote_ip_blocks, (*at, "remoteIpBlocks"), network),
        not_remote_ips=each(source.not_remote_ip_blocks, (*at, "notRemoteIpBlocks"), network),
    )
    fields = {
        "requestPrincipals": source.request_principals,
        "notRequestPrincipals": source.not_request_principals,
        "remoteIpBlocks": source.remote_ip_blocks,
        "notRemoteIpBlocks": source.not_remote_ip_blocks,
    }
    return _noted(match, fields, at, notes)


def operation_request(operation: Operation, at: FieldPath, notes: Notes) -> RequestMatch | None:
    """Read what an operation says about the request."""
    match = RequestMatch(
        hosts=each(operation.hosts, (*at, "hosts"), parse_host),
        not_hosts=each(operation.not_hosts, (*at, "notHosts"), parse_host),
        methods=each(operation.methods, (*at, "methods"), parse_method),
        not_methods=each(operation.not_methods, (*at, "notMethods"), parse_method),
        paths=each(operation.paths, (*at, "paths"), parse_path),
        not_paths=each(operation.not_paths, (*at, "notPaths"), parse_path),
    )
    fields = {
        "hosts": operation.hosts,
        "notHosts": operation.not_hosts,
        "methods": operation.methods,
        "notMethods": operation.not_methods,
        "paths": operation.paths,
        "notPaths": operation.not_paths,
    }
    return _noted(match, fields, at, notes)


def _noted(
    match: RequestMatch,
    fields: dict[str, tuple[str, ...] | None],
    at: FieldPath,
    notes: Notes,
) -> RequestMatch | None:
    names = [name for name, values in fields.items() if values is not None]
    notes.l7 += [format_path((*at[3:], name)) for name in names]
    return match if names else None


def condition_request(when: When, at: FieldPath, notes: Notes) -> RequestMatch | None:
    """Read a condition over the request; None where no point of ours can judge it."""
    label = f"{format_path(at[3:])}.{when.key}"
    notes.l7.append(label)

    def both(parse: Parser[Parsed]) -> tuple[tuple[Parsed, ...], tuple[Parsed, ...]]:
        values = each(when.values, (*at, "values"), parse)
        return values, each(when.not_values, (*at, "notValues"), parse)

    if when.key == "remote.ip":
        networks, not_networks = both(parse_network)
        return RequestMatch(remote_ips=networks, not_remote_ips=not_networks)
    if when.key == "connection.sni":
        names, not_names = both(parse_host)
        return RequestMatch(snis=names, not_snis=not_names)
    values, not_values = both(parse_string_form)
    match when.key:
        case "request.auth.principal":
            return RequestMatch(request_principals=values, not_request_principals=not_values)
        case "request.auth.audiences":
            return RequestMatch(audiences=values, not_audiences=not_values)
        case "request.auth.presenter":
            return RequestMatch(presenters=values, not_presenters=not_values)
    return _named_condition(when.key, values, not_values, (*at, "key"), label, notes)


def _named_condition(
    key: str,
    values: tuple[StringMatch, ...],
    not_values: tuple[StringMatch, ...],
    at: FieldPath,
    label: str,
    notes: Notes,
) -> RequestMatch | None:
    if found := _HEADER_KEY.fullmatch(key):
        name = (parse_header_name(found[1], at),)
        return RequestMatch(header=NamedMatch(name=name, values=values, not_values=not_values))
    if found := _CLAIM_KEY.fullmatch(key):
        way = tuple(found[1][1:-1].split("]["))
        return RequestMatch(claim=NamedMatch(name=way, values=values, not_values=not_values))
    if key.startswith(_FILTERS) and len(key) > len(_FILTERS):
        notes.unsupported.append(label)
        return None
    hint = did_you_mean(key, (*L4_KEYS, *_L7_KEYS, _HEADER, _CLAIM, _FILTERS))
    raise FieldError(at, f"unknown key {key!r}{hint}")


def parse_host(text: str, path: FieldPath) -> StringMatch:
    """Parse a host, with or without a port, in any string form; case does not count."""
    if "/" in text:
        raise FieldError(path, f"{text!r} is not a host: write it without scheme and path")
    return parse_string_form(text.lower(), path)


def parse_method(text: str, path: FieldPath) -> StringMatch:
    """Parse a method; methods are case-sensitive (RFC 9110 §9.1)."""
    if text not in _METHODS and text.upper() in _METHODS:
        raise FieldError(path, f"{text!r} never matches: methods are written {text.upper()!r}")
    return parse_string_form(text, path)


def parse_path(text: str, path: FieldPath) -> StringMatch:
    """Parse a path: a string form, or a template with `{*}` and `{**}`."""
    if "?" in text or "#" in text:
        raise FieldError(path, f"{text!r}: paths are compared without query and fragment")
    match = StringMatch(kind="template", value=text)
    if "{" in text or "}" in text:
        _check_template(text, path)
    else:
        match = parse_string_form(text, path)
    if match.kind in ("exact", "prefix", "template") and not text.startswith("/"):
        raise FieldError(path, f"{text!r} never matches: a path starts with '/'")
    return match


def _check_template(text: str, path: FieldPath) -> None:
    rest = False
    for segment in text.split("/"):
        if segment in ("{*}", "{**}"):
            if rest:
                raise FieldError(path, f"{text!r}: no other operator may follow {{**}}")
            rest = segment == "{**}"
        elif any(sign in segment for sign in "{}*"):
            want = "{*} and {**} stand alone in their segment"
            raise FieldError(path, f"{text!r}: {want}, and '*' does not go with them")
