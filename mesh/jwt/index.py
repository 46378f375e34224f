"""The JWT rules of a waypoint, merged per service."""

from __future__ import annotations

from mesh.jwt.authenticate import Authenticator
from mesh.jwt.jwks import JwksLocation, location_of
from mesh.jwt.verified import VerifiedTokens
from mesh.model.authentication import RequestAuthentication
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import ServiceKey
from mesh.policy.l7.scope import TargetScopes


class AuthenticationIndex:
    """The RequestAuthentications of one waypoint. Services are merged on first use.

    Args:
        verified: good signatures, remembered beyond this snapshot.
    """

    def __init__(
        self, snapshot: MeshSnapshot, waypoint: str, verified: VerifiedTokens | None = None
    ) -> None:
        self._verified = VerifiedTokens() if verified is None else verified
        self._scopes: TargetScopes[RequestAuthentication] = TargetScopes(
            snapshot.request_authentications.values(), snapshot.settings.root_namespace, waypoint
        )
        self._merged: dict[ServiceKey | None, Authenticator] = {}
        self._services = snapshot.services
        self._waypoint = waypoint

    def authenticator(self, service: ServiceKey | None) -> Authenticator | None:
        """Return what verifies the tokens of a service; None where nobody asks for tokens."""
        known = service if service in self._services else None
        merged = self._merged.get(known)
        if merged is None:
            layers = self._scopes.of(known)
            merged = Authenticator(
                [rule for layer in layers for item in layer for rule in item.rules],
                verified=self._verified,
            )
            self._merged[known] = merged
        return merged if merged.rules else None

    def key_sources(self) -> frozenset[JwksLocation]:
        """Every place whose keys the waypoint needs."""
        own = [key for key, item in self._services.items() if item.waypoint == self._waypoint]
        items = [item for key in (None, *own) for layer in self._scopes.of(key) for item in layer]
        return frozenset(location_of(rule) for item in items for rule in item.rules)
