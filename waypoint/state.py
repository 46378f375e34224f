"""What a worker knows: snapshot with everything compiled from it, and its own certificate."""

from __future__ import annotations

import time
from collections.abc import Iterable
from random import Random
from typing import Protocol

from mesh.http1.message import Headers, RequestHead
from mesh.jwt.index import AuthenticationIndex
from mesh.jwt.jwks import JwksLocation
from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from mesh.model.snapshot import MeshSnapshot
from mesh.policy.l7.engine import RequestIndex
from mesh.routing.path import PathRules
from mesh.routing.table import RouteTable
from waypoint.contract import Origin
from waypoint.resilience.opaque_way import OpaqueRefusal, OpaqueWay
from waypoint.resilience.protected import Protected
from waypoint.resilience.protection import Protections, Vantage
from waypoint.routing.dependence import Dependence
from waypoint.routing.memo import PlanMemo
from waypoint.routing.plan import Forward, Reply, Wait
from waypoint.routing.route_router import RouteRouter
from waypoint.security.authorize import Outside, PolicyAuthorizer
from waypoint.upstream.endpoints import Endpoints, service_protocol


class WantedKeys(Protocol):
    """Which issuers' keys are kept."""

    def want(self, locations: Iterable[JwksLocation]) -> None: ...


class WorkerState:
    """One writer (the feed), many readers. Keeps serving on the last snapshot."""

    def __init__(
        self,
        waypoint: str,
        random: Random,
        wanted: WantedKeys,
        outside: Outside,
        vantage: Vantage | None = None,
    ) -> None:
        self._wanted = wanted
        self._outside = outside
        self._waypoint = waypoint
        self._random = random
        self._credentials: dict[SpiffeId, Credentials] = {}
        self.snapshot = MeshSnapshot(revision=0)
        self.endpoints = Endpoints(self.snapshot)
        self.protections = Protections(random, time.monotonic, vantage)
        self._policies = RequestIndex.compile(self.snapshot, waypoint)
        self._before = self._router = self._compile()
        self._memo = PlanMemo(self._router)
        self.policy_changed = False
        """Whether the newest snapshot may say otherwise of a request than the one before."""

    def replace_snapshot(self, snapshot: MeshSnapshot) -> None:
        """Take a new snapshot; routes, policies and endpoints change together."""
        self.policy_changed = _says(snapshot) != _says(self.snapshot)
        self.snapshot = snapshot
        self.endpoints = Endpoints(snapshot, self.endpoints)
        self._policies = RequestIndex.compile(snapshot, self._waypoint, self._policies)
        self._before, self._router = self._router, self._compile()
        self._memo = PlanMemo(self._router)

    def _compile(self) -> RouteRouter:
        table = RouteTable.compile(self.snapshot)
        tokens = AuthenticationIndex(self.snapshot, self._waypoint, self._outside.verified)
        self._wanted.want(tokens.key_sources())
        authorizer = PolicyAuthorizer(self._policies, tokens, self.endpoints, self._outside)
        self.opaque_verdict = authorizer.opaque_verdict
        self.protections.follow(self.snapshot)
        protected = Protected(self.protections, self.snapshot.services)
        return RouteRouter(
            self.endpoints,
            table,
            self._random,
            authorizer,
            PathRules(normalization=self.snapshot.settings.path_normalization),
            protected,
        )

    def change_credentials(self, valid: list[Credentials], gone: list[SpiffeId]) -> None:
        for identity in gone:
            self._credentials.pop(identity, None)
        for credentials in valid:
            self._credentials[credentials.svid.identity] = credentials

    def own(self) -> Credentials | None:
        """The waypoint's certificate; None if there is none that is valid now."""
        now = time.time()
        return next((c for c in self._credentials.values() if now < c.svid.not_after), None)

    def plan(self, origin: Origin, head: RequestHead) -> Forward | Reply | Wait:
        """`waypoint.routing.plan.Router`, by the newest snapshot."""
        return self._memo.plan(origin, head)

    def judge_again(
        self,
        origin: Origin,
        head: RequestHead,
        granted: Headers | None,
        began_at: float | None = None,
    ) -> Reply | None:
        """See `waypoint.exchange.open_exchanges.Judge`; the snapshot before allowed the request."""
        return self._router.judge_again(origin, head, granted, self._before, began_at)

    def settle(self) -> None:
        """All requests under way are such as the newest snapshot allows."""
        self._before = self._router

    def token_expiry(self, origin: Origin, head: RequestHead) -> float | None:
        """See `waypoint.exchange.open_exchanges.Judge`."""
        return self._router.token_expiry(origin, head)

    def depends(self, origin: Origin) -> Dependence | None:
        """What of a request its plan depends on; None: on more than can be said."""
        return self._router.depends(origin)

    def app_protocol(self, origin: Origin) -> str:
        """What is said of the port that was dialled; empty if nothing is."""
        if origin.service is None and origin.workload is not None:
            return self.endpoints.workload_protocol(origin.workload, origin.dialled)
        return service_protocol(origin)

    def wants_server_name(self, origin: Origin) -> bool:
        return self._router.wants_server_name(origin)

    def pick_opaque(self, origin: Origin, server_name: str) -> OpaqueWay | OpaqueRefusal | None:
        return self._router.pick_opaque(origin, server_name)


def _says(snapshot: MeshSnapshot) -> tuple[object, ...]:
    return snapshot.policies, snapshot.request_authentications, snapshot.settings
