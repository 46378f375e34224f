"""Which TLSRoute takes a connection: by the server name that its client asks for.

Order: the exact name, then the longest wildcard (`*.a.b` stands for one label or more), then
routes without `hostnames`; of equal ones the older route (Gateway API TLSRouteSpec.hostnames).
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.model.routing import Route
from mesh.routing.index import RouteMatch
from mesh.routing.rule import CompiledRule


class SniIndex:
    """The routes of one service port, oldest first; the first rule of each counts."""

    __slots__ = ("_any", "_exact", "_suffixes")

    def __init__(self, members: Iterable[tuple[Route, CompiledRule]]) -> None:
        self._exact: dict[str, RouteMatch] = {}
        self._suffixes: dict[str, RouteMatch] = {}
        self._any: RouteMatch | None = None
        for route, rule in members:
            match = RouteMatch(rule=rule, match=0, prefix=None)
            for host in route.hostnames:
                if host.startswith("*."):
                    self._suffixes.setdefault(host[2:].lower(), match)
                else:
                    self._exact.setdefault(host.lower(), match)
            if not route.hostnames and self._any is None:
                self._any = match

    def find(self, server_name: str) -> RouteMatch | None:
        """Find the route of a connection; an empty name is one that was not said."""
        name = server_name.lower().removesuffix(".")
        found = self._exact.get(name)
        while found is None and (dot := name.find(".")) >= 0:
            name = name[dot + 1 :]
            found = self._suffixes.get(name)
        return found or self._any
