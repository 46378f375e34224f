"""What a waypoint enforces on each of its services, by name; for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import msgspec

from mesh.jwt.index import AuthenticationIndex
from mesh.model.policy import AuthorizationPolicy
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import ServiceKey
from mesh.policy.l7.engine import RequestIndex
from mesh.telemetry.hidden import hide_secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What holds for one service.

    Attributes:
        policies: in the order in which they are judged, widest scope first within an action:
            `DENY shop/no-admin`, with `(dry-run)` where it is one.
        issuers: whose tokens are believed; routes: those attached to the service.
    """

    policies: tuple[str, ...]
    issuers: tuple[str, ...]
    routes: tuple[str, ...]


_ORDER = {"CUSTOM": 0, "DENY": 1, "ALLOW": 2, "AUDIT": 3}


def in_force(snapshot: MeshSnapshot, waypoint: str) -> Mapping[ServiceKey, InForce]:
    """Say what holds for each service behind the waypoint."""
    policies = RequestIndex.compile(snapshot, waypoint)
    tokens = AuthenticationIndex(snapshot, waypoint)
    routes: dict[ServiceKey, list[str]] = {}
    for route in snapshot.routes.values():
        for parent in dict.fromkeys(p for p in route.parents if p.is_service):
            key = ServiceKey(f"{parent.namespace}/{parent.name}")
            routes.setdefault(key, []).append(str(route.key))
    found = {}
    for key, service in snapshot.services.items():
        if service.waypoint != waypoint:
            continue
        layers = [policy for layer in policies.applicable(key) for policy in layer]
        layers.sort(key=lambda policy: _ORDER[policy.action])
        authenticator = tokens.authenticator(key)
        rules = authenticator.rules if authenticator is not None else ()
        found[key] = InForce(
            policies=tuple(_described(policy) for policy in layers),
            issuers=tuple(dict.fromkeys(rule.issuer for rule in rules)),
            routes=tuple(sorted(dict.fromkeys(routes.get(key, ())))),
        )
    return found


def _described(policy: AuthorizationPolicy) -> str:
    dry_run = " (dry-run)" if policy.dry_run else ""
    provider = f" by {policy.provider}" if policy.provider else ""
    return f"{policy.action} {policy.key}{provider}{dry_run}"


def config_dump(snapshot: MeshSnapshot, waypoint: str) -> Mapping[str, object]:
    """The whole snapshot as plain values without secrets, and in front of it what is in force."""
    # By its fields: indexes may be cached beside them.
    plain = {item.name: getattr(snapshot, item.name) for item in fields(snapshot)}
    shown = {"waypoint": waypoint, "in_force": in_force(snapshot, waypoint), **plain}
    found = msgspec.to_builtins(shown, str_keys=True, enc_hook=str, order="deterministic")
    assert isinstance(found, dict)
    # Addresses and names of workloads hold nothing secret, and there may be many thousands.
    return {
        name: value if name in ("workloads", "services") else hide_secrets(value)
        for name, value in found.items()
    }
