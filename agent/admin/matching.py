"""`routes`: which rule takes a request, and why the ones before it do not. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches

from agent.admin.question import RequestQuestion
from mesh.errors import ConfigError, RemoteProtocolError
from mesh.model.routing import GrpcMatch, HttpMatch, Route, RouteKind, RouteRule, ValueMatch
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import Service, ServiceKey
from mesh.routing.attach import settle_groups
from mesh.routing.index import RouteMatch
from mesh.routing.message import RequestFacts, RequestHead
from mesh.routing.path import PathRules, normalize_path
from mesh.routing.rule import CompiledRule
from mesh.routing.table import NoRoute, RouteTable
from mesh.telemetry.hidden import HIDDEN, is_secret_header

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRow:
    """One rule of a service's routes.

    Attributes:
        rule: `Kind/namespace/name` and the rule's name or number.
        consumer: callers' namespace it is for, empty = everybody.
        request_timeout_s, try_timeout_s: None = no limit.
        wins: this rule takes the request in question; why: in words.
    """

    rule: str
    port: int
    consumer: str
    matches: tuple[str, ...]
    backends: tuple[str, ...]
    request_timeout_s: float | None
    try_timeout_s: float | None
    retries: str
    wins: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutesQuestion:
    """Which rule of a service takes this request?

    Attributes:
        caller: namespace of the caller, empty = none with a verified identity.
    """

    service: str
    port: int = 0
    caller: str = ""
    request: RequestQuestion


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutesAnswer:
    """The winner, and all rules in the order in which they rank."""

    schema_version: int = SCHEMA_VERSION
    service: str
    port: int
    waypoint: str
    outcome: str
    winner: str
    backends: tuple[str, ...]
    rows: tuple[RouteRow, ...]
    revision: int


def find_routes(snapshot: MeshSnapshot, question: RoutesQuestion) -> RoutesAnswer:
    """Match a request against the tables; raises `ConfigError` for what makes no sense."""
    service = snapshot.services.get(ServiceKey(question.service))
    if service is None:
        hint = suggest(question.service, snapshot.services)
        raise ConfigError(f"no service {question.service!r} is known{hint}")
    port = _port(service, question.port)
    rules = PathRules(normalization=snapshot.settings.path_normalization)
    facts = RequestFacts(
        service=service.key,
        port=port,
        caller_namespace=question.caller or None,
        head=_head(question.request, service, rules),
    )
    table = RouteTable.compile(snapshot)
    found = table.match(facts)
    rows = [row for row in route_rows(snapshot, service) if row.port == port]
    blank = RoutesAnswer(
        service=service.key,
        port=port,
        waypoint=service.waypoint or "",
        outcome="",
        winner="",
        backends=(),
        rows=tuple(rows),
        revision=snapshot.revision,
    )
    if isinstance(found, NoRoute):
        return replace(blank, outcome=_NO_ROUTE[found])
    return _won(blank, found)


def _won(blank: RoutesAnswer, found: RouteMatch) -> RoutesAnswer:
    """Name the rule that takes the request, and what it matched."""
    rule = found.rule
    name = _rule_name(rule.route, rule.source, rule.index)
    text = _matches(rule.source, rule.kind)[found.match : found.match + 1]
    why = f"matched {text[0]}" if text else "takes every request"
    return replace(
        blank,
        outcome=f"answered 500: {rule.unusable}" if rule.unusable else "forwarded",
        winner=name,
        backends=tuple(_shares(rule)),
        rows=tuple(_marked(row, name, why) for row in blank.rows),
    )


_NO_ROUTE = {
    NoRoute.NOT_ATTACHED: "no route is about this port: the service's own endpoints serve",
    NoRoute.NO_MATCH: "answered 404: routes are attached and none matches",
}


def _marked(row: RouteRow, winner: str, why: str) -> RouteRow:
    if row.rule != winner:
        return row
    return replace(row, wins=True, why=why)


def route_rows(snapshot: MeshSnapshot, service: Service) -> Iterator[RouteRow]:
    """The rules that are about a service, oldest route first."""
    settled = settle_groups(snapshot.routes.values(), snapshot.services)
    for group, routes in sorted(settled.items()):
        if group.service != service.key:
            continue
        for route in routes:
            for index, rule in enumerate(route.rules):
                yield _row(route, rule, index, group.port, group.consumer)


def _row(route: Route, rule: RouteRule, index: int, port: int, consumer: str) -> RouteRow:
    retry = rule.retry
    text = ""
    if retry is not None:
        codes = f" on {', '.join(map(str, retry.codes))}" if retry.codes else ""
        text = f"{retry.attempts}{codes} and on failed connections"
    return RouteRow(
        rule=_rule_name(route.key, rule, index),
        port=port,
        consumer=consumer,
        matches=_matches(rule, route.kind),
        backends=tuple(
            f"{ref.target.namespace}/{ref.target.name}:{ref.target.port or '?'} weight {ref.weight}"
            for ref in rule.backends
        ),
        request_timeout_s=rule.timeouts.request_s,
        try_timeout_s=rule.timeouts.backend_request_s,
        retries=text,
    )


def _rule_name(route: str, rule: RouteRule, index: int) -> str:
    return f"{route}/{rule.name or index}"


def _shares(rule: CompiledRule) -> Iterator[str]:
    total = sum(backend.ref.weight for backend in rule.backends)
    for backend in rule.backends:
        share = f"{backend.ref.weight / total:.0%}" if total else "0%"
        failure = f" ({backend.failure}: answered 500)" if backend.failure else ""
        yield f"{backend.service}:{backend.port} {share}{failure}"


def _matches(rule: RouteRule, kind: RouteKind) -> tuple[str, ...]:
    if kind is RouteKind.GRPC:
        return tuple(map(_grpc_text, rule.methods)) or ("every call",)
    if kind is RouteKind.HTTP:
        return tuple(map(_http_text, rule.matches)) or ("every path",)
    return ("every connection",)


def _http_text(match: HttpMatch) -> str:
    words = [f"path {match.path.kind} {match.path.value}"]
    if match.method:
        words.insert(0, f"method {match.method}")
    words += [f"header {_value_text(one)}" for one in match.headers]
    words += [f"query {_value_text(one)}" for one in match.query]
    return ", ".join(words)


def _grpc_text(match: GrpcMatch) -> str:
    words = [f"call {match.service or '*'}/{match.method or '*'}"]
    words += [f"header {_value_text(one)}" for one in match.headers]
    return ", ".join(words)


def _value_text(match: ValueMatch) -> str:
    value = HIDDEN if is_secret_header(match.name) else match.value
    return f"{match.name} {match.kind} {value}"


def _port(service: Service, wanted: int) -> int:
    ports = [known.port for known in service.ports]
    if wanted in ports:
        return wanted
    if wanted == 0 and ports:
        return ports[0]
    known = ", ".join(map(str, ports)) or "none"
    raise ConfigError(f"service {service.key} has no port {wanted}; it has: {known}")


def _head(request: RequestQuestion, service: Service, rules: PathRules) -> RequestHead:
    path, mark, query = request.path.partition("?")
    try:
        path = normalize_path(path, rules)
    except RemoteProtocolError as error:
        raise ConfigError(f"{request.path!r} would be refused with 400: {error}") from error
    return RequestHead(
        method=request.method,
        path=path,
        authority=request.host or service.hostname,
        query=query if mark else None,
        headers=tuple((name.lower(), value) for name, value in request.headers),
    )


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or nothing."""
    close = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""
