"""The matches of GRPCRoutes on one service port.

Order: more characters of the service, then of the method, then more headers, the older route,
its name, the order in it (Gateway API GRPCRouteRule). The path of a call is `/service/method`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mesh.model.routing import GrpcMatch, Route, ValueMatchType
from mesh.routing.attach import age
from mesh.routing.index import Bucket, Entry, Request, RouteMatch, compile_conditions
from mesh.routing.regex import Pattern, compile_pattern
from mesh.routing.rule import CompiledRule


@dataclass(frozen=True, slots=True)
class _CallPattern:
    """Expressions for service and method; None = any."""

    service: Pattern | None
    method: Pattern | None

    def matches(self, text: str) -> bool:
        """Say whether a path names a call that matches."""
        call = split_call(text)
        if call is None:
            return False
        return all(
            pattern is None or pattern.matches(part)
            for pattern, part in zip((self.service, self.method), call, strict=True)
        )


def split_call(path: str) -> tuple[str, str] | None:
    """Split `/service/method`; None for any other form."""
    service, slash, method = path[1:].partition("/")
    if not path.startswith("/") or not slash or not service or not method or "/" in method:
        return None
    return service, method


def grpc_entries(route: Route, rule: CompiledRule) -> Iterable[tuple[GrpcMatch, Entry]]:
    """The matches of a rule, ready to be filed."""
    for number, match in enumerate(rule.source.methods):
        order = (
            -len(match.service or ""),
            -len(match.method or ""),
            -len(match.headers),
            *age(route),
            rule.index,
            number,
        )
        pattern = None
        if match.kind is ValueMatchType.REGEX:
            texts = (match.service, match.method)
            pattern = _CallPattern(*(compile_pattern(text) if text else None for text in texts))
        headers = compile_conditions(match.headers)
        result = RouteMatch(rule=rule, match=number, prefix=None)
        yield match, Entry(order, result, headers=headers, path=pattern)


class GrpcIndex:
    """Finds the match of a call among those of one service port."""

    __slots__ = ("_buckets", "_rest")

    def __init__(self, items: Iterable[tuple[GrpcMatch, Entry]]) -> None:
        ordered = sorted(items, key=lambda item: item[1].order)
        filed: dict[tuple[str | None, str | None], list[Entry]] = {}
        rest: list[Entry] = []
        for rank, (match, entry) in enumerate(ordered):
            entry.rank = rank
            if match.kind is ValueMatchType.REGEX:
                rest.append(entry)
            else:
                filed.setdefault((match.service, match.method), []).append(entry)
        self._buckets = {key: Bucket(entries) for key, entries in filed.items()}
        self._rest = Bucket(rest)

    def find(self, request: Request) -> RouteMatch | None:
        """Find the rule for a call."""
        best = self._rest.best(request)
        call = split_call(request.head.path)
        keys: list[tuple[str | None, str | None]] = [(None, None)]
        if call is not None:
            keys = [call, (call[0], None), (None, call[1]), (None, None)]
        for key in keys:
            bucket = self._buckets.get(key)
            found = bucket.best(request) if bucket else None
            if found is not None and (best is None or found.rank < best.rank):
                best = found
        return best.result if best else None
