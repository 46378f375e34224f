"""Finding the best match without trying them all.

Every match of every rule gets a rank by the Gateway API's precedence; the lowest that holds
wins. A *bucket* holds matches that share a path: it files each under its rarest exact header or
query condition, so that a request looks only at matches that one of its own values points to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mesh.model.routing import RouteKey, ValueMatch, ValueMatchType
from mesh.routing.message import RequestHead, first_values, fold_headers
from mesh.routing.regex import Pattern, compile_pattern
from mesh.routing.rule import CompiledRule


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteMatch:
    """The rule that takes a request.

    Attributes:
        match: index of the match within the rule.
        prefix: the path prefix that matched, without its trailing slash (`/` as `""`); None
            where no prefix did.
    """

    rule: CompiledRule
    match: int
    prefix: str | None

    @property
    def route(self) -> RouteKey:
        """The route that the rule belongs to."""
        return self.rule.route


class Request:
    """A request under lookup; headers and query are taken apart when first needed."""

    __slots__ = ("_headers", "_query", "head")

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self._headers: dict[str, str] | None = None
        self._query: Mapping[str, str] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Headers by name; `host` is the authority, whichever way that came."""
        if self._headers is None:
            self._headers = fold_headers(self.head.headers)
            self._headers["host"] = self.head.authority
        return self._headers

    @property
    def query(self) -> Mapping[str, str]:
        """Query parameters by name."""
        if self._query is None:
            self._query = first_values(self.head.query)
        return self._query


Exact = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Conditions:
    """Header or query conditions, the exact ones apart from the expressions."""

    exact: tuple[Exact, ...]
    patterns: tuple[tuple[str, Pattern], ...]

    def hold(self, values: Mapping[str, str]) -> bool:
        """Say whether all hold."""
        for name, wanted in self.exact:
            if values.get(name) != wanted:
                return False
        for name, pattern in self.patterns:
            value = values.get(name)
            if value is None or not pattern.matches(value):
                return False
        return True


def compile_conditions(matches: Sequence[ValueMatch]) -> Conditions | None:
    """Compile conditions; None where there are none. Of equal names the first counts."""
    first: dict[str, ValueMatch] = {}
    for match in matches:
        first.setdefault(match.name, match)
    if not first:
        return None
    exact = [m for m in first.values() if m.kind is ValueMatchType.EXACT]
    others = [m for m in first.values() if m.kind is ValueMatchType.REGEX]
    return Conditions(
        tuple((match.name, match.value) for match in exact),
        tuple((match.name, compile_pattern(match.value)) for match in others),
    )


class PathCheck(Protocol):
    """What is left to check of a path that a bucket does not imply."""

    def matches(self, text: str) -> bool:
        """Say whether the path matches."""


@dataclass(slots=True)
class Entry:
    """One match of one rule.

    `order` sorts entries; `rank`, the place in that order, is set once by the index that the
    entry was made for.
    """

    order: tuple[object, ...]
    result: RouteMatch
    method: str | None = None
    headers: Conditions | None = None
    query: Conditions | None = None
    path: PathCheck | None = None
    rank: int = 0

    def accepts(self, request: Request) -> bool:
        """Say whether everything but the bucket's own path holds."""
        if self.method is not None and self.method != request.head.method:
            return False
        if self.headers is not None and not self.headers.hold(request.headers):
            return False
        if self.query is not None and not self.query.hold(request.query):
            return False
        return self.path is None or self.path.matches(request.head.path)


Filed = dict[str, dict[str, list[Entry]]]


class Bucket:
    """Matches that share a path; the best of them for a request."""

    __slots__ = ("_by_header", "_by_method", "_by_query")

    def __init__(self, entries: Iterable[Entry]) -> None:
        ordered = sorted(entries, key=lambda entry: entry.rank)
        headers: Counter[Exact] = Counter()
        queries: Counter[Exact] = Counter()
        for entry in ordered:
            headers.update(entry.headers.exact if entry.headers else ())
            queries.update(entry.query.exact if entry.query else ())
        self._by_header: Filed = {}
        self._by_query: Filed = {}
        self._by_method: dict[str | None, list[Entry]] = {}
        for entry in ordered:
            self._file(entry, headers, queries)

    def _file(self, entry: Entry, headers: Counter[Exact], queries: Counter[Exact]) -> None:
        header = _rarest(entry.headers, headers)
        query = _rarest(entry.query, queries)
        if header is not None and (query is None or headers[header] <= queries[query]):
            self._by_header.setdefault(header[0], {}).setdefault(header[1], []).append(entry)
        elif query is not None:
            self._by_query.setdefault(query[0], {}).setdefault(query[1], []).append(entry)
        else:
            self._by_method.setdefault(entry.method, []).append(entry)

    def best(self, request: Request) -> Entry | None:
        """Find the entry of the lowest rank that accepts the request."""
        best: Entry | None = None
        if self._by_header:
            best = _best_filed(self._by_header, request.headers, request, best)
        if self._by_query:
            best = _best_filed(self._by_query, request.query, request, best)
        by_method = self._by_method
        if None in by_method:
            best = _first(by_method[None], request, best)
        if len(by_method) > (None in by_method):
            best = _first(by_method.get(request.head.method, ()), request, best)
        return best


def _rarest(conditions: Conditions | None, counts: Counter[Exact]) -> Exact | None:
    if conditions is None or not conditions.exact:
        return None
    return min(conditions.exact, key=lambda item: counts[item])


def _best_filed(
    filed: Filed, values: Mapping[str, str], request: Request, best: Entry | None
) -> Entry | None:
    # Whichever is shorter: the names that rules ask for, or those that the request has.
    for name in filed if len(filed) < len(values) else values:
        by_value = filed.get(name)
        value = values.get(name)
        if by_value is not None and value is not None:
            found = by_value.get(value)
            if found is not None:
                best = _first(found, request, best)
    return best


def _first(entries: Iterable[Entry], request: Request, best: Entry | None) -> Entry | None:
    for entry in entries:
        if best is not None and entry.rank > best.rank:
            return best
        if entry.accepts(request):
            return entry
    return best
