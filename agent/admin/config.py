"""`config dump`: the snapshot a node works with, as plain values without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.admin.codec import to_plain
from agent.admin.view import SCHEMA_VERSION
from mesh.model.authentication import RequestAuthentication
from mesh.model.policy import AuthorizationPolicy, PeerAuthentication
from mesh.model.routing import Route
from mesh.model.snapshot import MeshSettings, MeshSnapshot, Problem
from mesh.model.traffic import TrafficPolicy
from mesh.model.workload import Service, Workload
from mesh.routing.problems import routing_problems
from mesh.telemetry.hidden import hide_secrets


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


_HARMLESS = frozenset(("workloads", "services"))
"""There may be many thousands, and nothing in them can be secret."""


def config_dump(node: str, snapshot: MeshSnapshot) -> Mapping[str, object]:
    """Arrange a snapshot for people, fields in order."""
    plain = to_plain(_arranged(node, snapshot))
    assert isinstance(plain, dict)
    return {
        name: value if name in _HARMLESS else hide_secrets(value) for name, value in plain.items()
    }


def _arranged(node: str, snapshot: MeshSnapshot) -> ConfigDump:
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
