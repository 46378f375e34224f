"""The matches of HTTPRoutes on one service port.

Order of paths: exact; prefixes, longest first; regular expressions, longest first; the prefix
`/`. The Gateway API leaves the rank of expressions open: here one beats only the prefix that
matches everything, so that adding an expression never takes requests from a written path.
Then, as the standard says: a method, more headers, more query parameters, the older route, its
name, the order in it.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.model.routing import HttpMatch, PathMatchType, Route
from mesh.routing.attach import age
from mesh.routing.index import Bucket, Entry, Request, RouteMatch, compile_conditions
from mesh.routing.regex import compile_pattern, literal_prefix
from mesh.routing.rule import CompiledRule

_EXACT, _PREFIX, _REGEX, _ROOT = range(4)


def http_entries(route: Route, rule: CompiledRule) -> Iterable[tuple[HttpMatch, Entry]]:
    """The matches of a rule, ready to be filed."""
    for number, match in enumerate(rule.source.matches):
        kind, value = match.path.kind, match.path.value
        prefix = value.rstrip("/") if kind is PathMatchType.PREFIX else None
        order = (
            *_path_order(match),
            match.method is None,
            -len(match.headers),
            -len(match.query),
            *age(route),
            rule.index,
            number,
        )
        entry = Entry(
            order,
            RouteMatch(rule=rule, match=number, prefix=prefix),
            match.method,
            compile_conditions(match.headers),
            compile_conditions(match.query),
            compile_pattern(value) if kind is PathMatchType.REGEX else None,
        )
        yield match, entry


def _path_order(match: HttpMatch) -> tuple[int, int]:
    value = match.path.value
    match match.path.kind:
        case PathMatchType.EXACT:
            return _EXACT, 0
        case PathMatchType.REGEX:
            return _REGEX, -len(value)
        case _:
            length = len(value.rstrip("/"))
            return (_PREFIX, -length) if length else (_ROOT, 0)


class HttpIndex:
    """Finds the match of a request among those of one service port."""

    __slots__ = ("_depth", "_exact", "_prefix", "_regex", "_regex_rest", "_root")

    def __init__(self, items: Iterable[tuple[HttpMatch, Entry]]) -> None:
        ordered = sorted(items, key=lambda item: item[1].order)
        exact: dict[str, list[Entry]] = {}
        prefix: dict[str, list[Entry]] = {}
        regex: dict[str, list[Entry]] = {}
        for rank, (match, entry) in enumerate(ordered):
            entry.rank = rank
            path = match.path.value
            match match.path.kind:
                case PathMatchType.EXACT:
                    exact.setdefault(path, []).append(entry)
                case PathMatchType.PREFIX:
                    prefix.setdefault(path.rstrip("/"), []).append(entry)
                case PathMatchType.REGEX:
                    regex.setdefault(_first_segment(literal_prefix(path)), []).append(entry)
        self._root = Bucket(prefix.pop("", ()))
        self._exact = {path: Bucket(entries) for path, entries in exact.items()}
        self._prefix = {path: Bucket(entries) for path, entries in prefix.items()}
        self._depth = max((path.count("/") for path in prefix), default=0)
        self._regex_rest = Bucket(regex.pop("", ()))
        self._regex = {segment: Bucket(entries) for segment, entries in regex.items()}

    def find(self, request: Request) -> RouteMatch | None:
        """Find the rule for a request."""
        path = request.head.path
        bucket = self._exact.get(path)
        found = bucket.best(request) if bucket else None
        if found is None and self._depth:
            found = self._by_prefix(path, request)
        if found is None:
            found = self._by_regex(path, request)
        if found is None and path.startswith("/"):
            found = self._root.best(request)
        return found.result if found else None

    def _by_prefix(self, path: str, request: Request) -> Entry | None:
        ends: list[int] = []
        at = 1
        # No deeper than the deepest prefix: the cost does not grow with the caller's slashes.
        for _ in range(self._depth):
            at = path.find("/", at)
            if at < 0:
                ends.append(len(path))
                break
            ends.append(at)
            at += 1
        prefixes = self._prefix
        for end in reversed(ends):
            bucket = prefixes.get(path[:end])
            if bucket is not None:
                found = bucket.best(request)
                if found is not None:
                    return found
        return None

    def _by_regex(self, path: str, request: Request) -> Entry | None:
        best = self._regex_rest.best(request)
        bucket = self._regex.get(_first_segment(path)) if self._regex else None
        found = bucket.best(request) if bucket else None
        if best is None or (found is not None and found.rank < best.rank):
            return found
        return best


def _first_segment(path: str) -> str:
    """The path up to its second slash; empty where there is none."""
    end = path.find("/", 1)
    return path[:end] if end > 0 and path.startswith("/") else ""
