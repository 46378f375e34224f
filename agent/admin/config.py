"""`config dump`: the snapshot a node works with, as JSON-ready values. Holds no key material."""

from __future__ import annotations

from dataclasses import dataclass

from agent.admin.view import SCHEMA_VERSION
from mesh.model.authentication import RequestAuthentication
from mesh.model.policy import AuthorizationPolicy, PeerAuthentication
from mesh.model.routing import Route
from mesh.model.snapshot import MeshSettings, MeshSnapshot, Problem
from mesh.model.traffic import TrafficPolicy
from mesh.model.workload import Service, Workload
from mesh.routing.problems import routing_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDump:
    """The snapshot with its objects as lists, each sorted by key."""

    schema_version: int = SCHEMA_VERSION
    node: str
    revision: int
    settings: MeshSettings
    workloads: tuple[Workload, ...]
    services: tuple[Service, ...]
    policies: tuple[AuthorizationPolicy, ...]
    peer_authentications: tuple[PeerAuthentication, ...]
    request_authentications: tuple[RequestAuthentication, ...] = ()
    routes: tuple[Route, ...] = ()
    traffic_policies: tuple[TrafficPolicy, ...] = ()
    problems: tuple[Problem, ...]


def config_dump(node: str, snapshot: MeshSnapshot) -> ConfigDump:
    """Arrange a snapshot for people."""
    return ConfigDump(
        node=node,
        revision=snapshot.revision,
        settings=snapshot.settings,
        workloads=tuple(value for _, value in sorted(snapshot.workloads.items())),
        services=tuple(value for _, value in sorted(snapshot.services.items())),
        policies=tuple(value for _, value in sorted(snapshot.policies.items())),
        peer_authentications=tuple(
            value for _, value in sorted(snapshot.peer_authentications.items())
        ),
        request_authentications=tuple(
            value for _, value in sorted(snapshot.request_authentications.items())
        ),
        routes=tuple(value for _, value in sorted(snapshot.routes.items())),
        traffic_policies=tuple(value for _, value in sorted(snapshot.traffic_policies.items())),
        problems=(*snapshot.problems, *routing_problems(snapshot)),
    )
