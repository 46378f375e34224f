"""What of a request decides about it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mesh.model.policy import AuthorizationPolicy, PolicyAction
from mesh.model.routing import RouteRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependence:
    """Besides caller, method, path and host.

    Attributes:
        headers: names in lower case.
        query: routes look at parameters.
    """

    headers: frozenset[str] = frozenset()
    query: bool = False

    def joined(self, other: Dependence) -> Dependence:
        return Dependence(headers=self.headers | other.headers, query=self.query or other.query)


def of_rules(rules: Iterable[RouteRule]) -> Dependence:
    """What choosing among the rules of routes looks at."""
    headers: set[str] = set()
    query = False
    for rule in rules:
        for match in rule.matches:
            headers.update(value.name for value in match.headers)
            query = query or bool(match.query)
        for method in rule.methods:
            headers.update(value.name for value in method.headers)
    return Dependence(headers=frozenset(headers), query=query)


def of_policies(policies: Iterable[AuthorizationPolicy]) -> Dependence | None:
    """What policies look at; None where others are asked, or fields that a key does not hold."""
    headers: set[str] = set()
    for policy in policies:
        if policy.action is PolicyAction.CUSTOM:
            return None
        for rule in policy.rules:
            for match in (*rule.sources, *rule.operations, *rule.conditions):
                request = match.request
                if request is None:
                    continue
                if request.remote_ips or request.not_remote_ips or request.claim is not None:
                    return None
                if request.header is not None:
                    headers.add(request.header.name[0])
    return Dependence(headers=frozenset(headers))
