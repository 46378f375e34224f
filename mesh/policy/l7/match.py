"""Facts of a request against the fields of a rule, compiled for speed.

Adds what needs HTTP to `mesh.policy.match`; a `Request` is a `Peer`, so L4 fields are tested by
the same code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mesh.model.claims import Claims
from mesh.model.policy import L4Match, NamedMatch, RequestMatch, Rule, StringMatch
from mesh.policy.l7.facts import RequestFacts
from mesh.policy.l7.paths import PathTemplate, compile_template
from mesh.policy.match import (
    FieldTest,
    NetworkSet,
    Peer,
    RuleTests,
    StringSet,
    StringTest,
    TrustDomains,
    compile_match,
    compile_rule_with,
    compile_strings,
    network_key,
    peer_parts,
)

HEADER = "request.headers"
CLAIM = "request.auth.claims"
HOST = ("host",)
"""The header that HTTP/2 carries as :authority."""


@dataclass(frozen=True, slots=True)
class Request(Peer):
    """The facts of a request, taken apart once for all rules.

    Attributes:
        shown: the strings of each field that has a fixed name.
    """

    shown: Mapping[str, tuple[str, ...]]
    headers: Mapping[str, str]
    claims: Claims | None
    remote_version: int
    remote_value: int

    def strings(self, field: str) -> tuple[str, ...]:
        """Return what the request shows in a field."""
        known = self.shown.get(field)
        return known if known is not None else Peer.strings(self, field)

    def named(self, kind: str, name: tuple[str, ...]) -> tuple[str, ...]:
        """Return the values of a header or a claim."""
        if name == HOST and kind == HEADER:
            return self.shown["host"]
        if kind == HEADER:
            value = self.headers.get(name[0])
            return () if value is None else (value,)
        return self.claims.texts(name) if self.claims is not None else ()


def request_of(facts: RequestFacts, trust_domains: TrustDomains) -> Request:
    """Take the facts apart."""
    claims, remote = facts.claims, facts.remote_ip or facts.src.ip
    shown: dict[str, tuple[str, ...]] = {
        "hosts": host_forms(facts.host),
        "host": (facts.headers.get("host", facts.host),),
        "methods": (facts.method,),
        "paths": (_without_query(facts.path),),
        "snis": (facts.sni.lower(),) if facts.sni else (),
        "requestPrincipals": (),
        "audiences": (),
        "presenters": (),
    }
    if claims is not None:
        shown["requestPrincipals"] = _present(claims.principal)
        shown["audiences"] = claims.audiences
        shown["presenters"] = _present(claims.presenter)
    return Request(
        *peer_parts(facts.principal, facts.src, facts.dst, trust_domains),
        shown,
        facts.headers,
        claims,
        remote.version,
        int(remote),
    )


def _present(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


def _without_query(path: str) -> str:
    return path.partition("?")[0].partition("#")[0]


def host_forms(authority: str) -> tuple[str, ...]:
    """Every way a policy may name a host: as sent, without port, without trailing dot.

    A value without port fits whatever the port is (so `Host: admin.x:80` is no way round a DENY of
    `admin.x`); one with a port, or `:*`, wants it sent.
    """
    whole = authority.lower()
    host, colon, port = whole.rpartition(":")
    if not colon or "]" in port or (":" in host and not host.endswith("]")):
        host, colon, port = whole, "", ""
    bare = host.removesuffix(".")
    return tuple(dict.fromkeys((whole, f"{bare}{colon}{port}", bare)))


@dataclass(frozen=True, slots=True)
class PathTest:
    """paths that hold templates."""

    name: str
    values: StringSet
    templates: tuple[PathTemplate, ...]
    wanted: bool

    def holds(self, request: Request, /) -> bool:
        """See `FieldTest`."""
        shown = request.shown["paths"]
        hit = self.values.hits(shown) or any(item.hits(shown[0]) for item in self.templates)
        return hit is self.wanted


@dataclass(frozen=True, slots=True)
class NamedTest:
    """A header or a claim."""

    name: str
    kind: str
    way: tuple[str, ...]
    values: StringSet
    wanted: bool

    def holds(self, request: Request, /) -> bool:
        """See `FieldTest`."""
        return self.values.hits(request.named(self.kind, self.way)) is self.wanted


@dataclass(frozen=True, slots=True)
class RemoteTest:
    """remoteIpBlocks."""

    name: str
    values: NetworkSet
    wanted: bool

    def holds(self, request: Request, /) -> bool:
        """See `FieldTest`."""
        return self.values.hits(request.remote_version, request.remote_value) is self.wanted


RequestTest = FieldTest[Request]


def compile_request_rule(rule: Rule) -> RuleTests[Request]:
    """Compile a whole rule."""
    return compile_rule_with(compile_request_match, rule)


def compile_request_match(match: L4Match) -> tuple[RequestTest, ...]:
    """Turn a match into the tests that must all hold."""
    tests: list[RequestTest] = [*compile_match(match)]
    request = match.request
    if request is not None:
        tests += _string_tests(request)
        tests += _path_tests(request)
        for kind, named in ((HEADER, request.header), (CLAIM, request.claim)):
            tests += _named_tests(kind, named) if named is not None else ()
        tests += _remote_tests(request)
    return tuple(tests)


def string_fields(
    request: RequestMatch,
) -> tuple[tuple[str, tuple[StringMatch, ...], tuple[StringMatch, ...]], ...]:
    """List the fields whose strings compare alike: name, values, values that must not be."""
    return (
        ("methods", request.methods, request.not_methods),
        ("hosts", request.hosts, request.not_hosts),
        ("requestPrincipals", request.request_principals, request.not_request_principals),
        ("audiences", request.audiences, request.not_audiences),
        ("presenters", request.presenters, request.not_presenters),
        ("snis", request.snis, request.not_snis),
    )


def _string_tests(request: RequestMatch) -> list[RequestTest]:
    tests: list[RequestTest] = []
    for name, values, not_values in string_fields(request):
        if values:
            tests.append(StringTest(name, name, compile_strings(values), True))
        if not_values:
            tests.append(StringTest(negative(name), name, compile_strings(not_values), False))
    return tests


def negative(name: str) -> str:
    """Write a field's negative twin: `notPaths`."""
    return f"not{name[:1].upper()}{name[1:]}"


def _path_tests(request: RequestMatch) -> list[RequestTest]:
    tests: list[RequestTest] = []
    for name, values, wanted in (
        ("paths", request.paths, True),
        ("notPaths", request.not_paths, False),
    ):
        if values:
            tests.append(PathTest(name, *_compile_paths(values), wanted))
    return tests


def _compile_paths(
    values: Iterable[StringMatch],
) -> tuple[StringSet, tuple[PathTemplate, ...]]:
    plain = [match for match in values if match.kind != "template"]
    templates = [compile_template(match.value) for match in values if match.kind == "template"]
    return compile_strings(plain), tuple(templates)


def _named_tests(kind: str, named: NamedMatch) -> list[RequestTest]:
    label = kind + "".join(f"[{step}]" for step in named.name)
    pairs: Sequence[tuple[str, tuple[StringMatch, ...], bool]] = (
        (label, named.values, True),
        (f"not {label}", named.not_values, False),
    )
    return [
        NamedTest(name, kind, named.name, compile_strings(values), wanted)
        for name, values, wanted in pairs
        if values
    ]


def _remote_tests(request: RequestMatch) -> list[RequestTest]:
    return [
        RemoteTest(name, NetworkSet(tuple(map(network_key, values))), wanted)
        for name, values, wanted in (
            ("remoteIpBlocks", request.remote_ips, True),
            ("notRemoteIpBlocks", request.not_remote_ips, False),
        )
        if values
    ]
