"""Route choice as the Gateway API's text says it, match after match. Slow and plain."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl

from mesh.model.routing import HttpMatch, PathMatchType, Route, ValueMatch, ValueMatchType
from mesh.routing.message import RequestHead


def _path_matches(match: HttpMatch, path: str) -> bool:
    wanted = match.path.value
    match match.path.kind:
        case PathMatchType.EXACT:
            return path == wanted
        case PathMatchType.REGEX:
            return re.fullmatch(wanted, path) is not None
        case PathMatchType.PREFIX:
            elements = [item for item in wanted.split("/")[1:] if item]
            return path.startswith("/") and path.split("/")[1 : len(elements) + 1] == elements


def _value_matches(match: ValueMatch, value: str | None) -> bool:
    if value is None:
        return False
    if match.kind is ValueMatchType.REGEX:
        return re.fullmatch(match.value, value) is not None
    return match.value == value


def _header(head: RequestHead, name: str) -> str | None:
    values = [value for key, value in head.headers if key == name]
    return ",".join(values) if values else None


def _parameter(head: RequestHead, name: str) -> str | None:
    pairs = parse_qsl(head.query or "", keep_blank_values=True)
    return next((value for key, value in pairs if key == name), None)


def matches(match: HttpMatch, head: RequestHead) -> bool:
    """Say whether a match holds."""
    return (
        _path_matches(match, head.path)
        and match.method in (None, head.method)
        and all(_value_matches(item, _header(head, item.name)) for item in match.headers)
        and all(_value_matches(item, _parameter(head, item.name)) for item in match.query)
    )


def _path_rank(match: HttpMatch) -> tuple[int, int]:
    length = len(match.path.value.rstrip("/"))
    if match.path.kind is PathMatchType.EXACT:
        return 3, 0
    if match.path.kind is PathMatchType.PREFIX:
        return (2, length) if length else (0, 0)
    return 1, len(match.path.value)


def choose(routes: Iterable[Route], head: RequestHead) -> tuple[str, int, int] | None:
    """Name route, rule and match that take a request."""
    best: tuple[str, int, int] | None = None
    best_rank: tuple[object, ...] = ()
    for route in sorted(routes, key=lambda item: (item.created, item.namespace, item.name)):
        for number, rule in enumerate(route.rules):
            for index, match in enumerate(rule.matches):
                rank = (
                    _path_rank(match),
                    match.method is not None,
                    len(match.headers),
                    len(match.query),
                )
                # Strictly better only: what came first in age, name and order wins a tie.
                if matches(match, head) and (best is None or rank > best_rank):
                    best, best_rank = (route.key, number, index), rank
    return best
