"""What changed from one snapshot to the next, small enough to send on every change.

`apply_delta(old, diff(old, new)) == new`. Unchanged objects of the receiver stay the same Python
objects. The reducer keeps unchanged objects too, so `diff` mostly compares identities.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import compress
from operator import is_not, not_
from typing import TypeVar

import msgspec

from mesh.errors import ConfigError
from mesh.model.authentication import RequestAuthentication
from mesh.model.policy import AuthorizationPolicy, PeerAuthentication, PolicyKey
from mesh.model.routing import GrantKey, ReferenceGrant, Route, RouteKey
from mesh.model.snapshot import MeshSettings, MeshSnapshot, Problem
from mesh.model.traffic import TrafficPolicy
from mesh.model.workload import Service, ServiceKey, Workload, WorkloadUid
from mesh.state.carry import carry_indexes
from mesh.state.codec import from_plain, to_plain

_ARRAY_16, _MAP_32 = 0xDC, 0xDF
"""First bytes of lists and maps (the MessagePack specification, formats)."""

Key = TypeVar("Key", bound=str)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotDelta:
    """The way from revision `base` to `revision`.

    Maps hold what is new or different, `gone_*` what is no more; None = unchanged.
    """

    base: int
    revision: int
    settings: MeshSettings | None = None
    problems: tuple[Problem, ...] | None = None
    workloads: Mapping[WorkloadUid, Workload]
    services: Mapping[ServiceKey, Service]
    policies: Mapping[PolicyKey, AuthorizationPolicy]
    peer_authentications: Mapping[PolicyKey, PeerAuthentication]
    request_authentications: Mapping[PolicyKey, RequestAuthentication]
    routes: Mapping[RouteKey, Route]
    grants: Mapping[GrantKey, ReferenceGrant]
    traffic_policies: Mapping[PolicyKey, TrafficPolicy]
    gone_workloads: tuple[WorkloadUid, ...] = ()
    gone_services: tuple[ServiceKey, ...] = ()
    gone_policies: tuple[PolicyKey, ...] = ()
    gone_peer_authentications: tuple[PolicyKey, ...] = ()
    gone_request_authentications: tuple[PolicyKey, ...] = ()
    gone_routes: tuple[RouteKey, ...] = ()
    gone_grants: tuple[GrantKey, ...] = ()
    gone_traffic_policies: tuple[PolicyKey, ...] = ()

    @property
    def touched_workloads(self) -> frozenset[WorkloadUid]:
        """Workloads that came, went or changed."""
        return frozenset((*self.workloads, *self.gone_workloads))

    @property
    def touched_services(self) -> frozenset[ServiceKey]:
        """Services that came, went or changed."""
        return frozenset((*self.services, *self.gone_services))


def diff(
    old: MeshSnapshot, new: MeshSnapshot, touched: Collection[WorkloadUid] | None = None
) -> SnapshotDelta:
    """Find what changed.

    Args:
        touched: the only workloads that may differ, where the reducer knows
            (`Reducer.touched`); None = look at all.
    """
    old_workloads, new_workloads = old.workloads, new.workloads
    if touched is not None:
        old_workloads = {uid: old.workloads[uid] for uid in touched if uid in old.workloads}
        new_workloads = {uid: new.workloads[uid] for uid in touched if uid in new.workloads}
    return SnapshotDelta(
        base=old.revision,
        revision=new.revision,
        settings=None if old.settings == new.settings else new.settings,
        problems=None if old.problems == new.problems else new.problems,
        workloads=_changed(old_workloads, new_workloads),
        services=_changed(old.services, new.services),
        policies=_changed(old.policies, new.policies),
        peer_authentications=_changed(old.peer_authentications, new.peer_authentications),
        routes=_changed(old.routes, new.routes),
        grants=_changed(old.grants, new.grants),
        traffic_policies=_changed(old.traffic_policies, new.traffic_policies),
        request_authentications=_changed(old.request_authentications, new.request_authentications),
        gone_request_authentications=_gone(
            old.request_authentications, new.request_authentications
        ),
        gone_workloads=_gone(old_workloads, new_workloads),
        gone_services=_gone(old.services, new.services),
        gone_policies=_gone(old.policies, new.policies),
        gone_peer_authentications=_gone(old.peer_authentications, new.peer_authentications),
        gone_routes=_gone(old.routes, new.routes),
        gone_grants=_gone(old.grants, new.grants),
        gone_traffic_policies=_gone(old.traffic_policies, new.traffic_policies),
    )


def apply_delta(old: MeshSnapshot, delta: SnapshotDelta) -> MeshSnapshot:
    """Go the way; raise `ConfigError` if it starts at another revision."""
    if old.revision != delta.base:
        raise ConfigError(f"a change from revision {delta.base} does not fit {old.revision}")
    new = MeshSnapshot(
        revision=delta.revision,
        settings=old.settings if delta.settings is None else delta.settings,
        problems=old.problems if delta.problems is None else delta.problems,
        workloads=_merged(old.workloads, delta.workloads, delta.gone_workloads),
        services=_merged(old.services, delta.services, delta.gone_services),
        policies=_merged(old.policies, delta.policies, delta.gone_policies),
        peer_authentications=_merged(
            old.peer_authentications, delta.peer_authentications, delta.gone_peer_authentications
        ),
        request_authentications=_merged(
            old.request_authentications,
            delta.request_authentications,
            delta.gone_request_authentications,
        ),
        routes=_merged(old.routes, delta.routes, delta.gone_routes),
        grants=_merged(old.grants, delta.grants, delta.gone_grants),
        traffic_policies=_merged(
            old.traffic_policies, delta.traffic_policies, delta.gone_traffic_policies
        ),
    )
    carry_indexes(old, new, {*delta.workloads, *delta.gone_workloads})
    return new


def encode_delta(delta: SnapshotDelta) -> bytes:
    """Write a delta as MessagePack.

    Entry by entry: the plain values of 100,000 workloads together would take more memory than
    the workloads do.
    """
    encoder, written = msgspec.msgpack.Encoder(), bytearray()
    fields = dataclasses.fields(delta)
    written += struct.pack(">BH", _ARRAY_16, len(fields))
    for field in fields:
        value = getattr(delta, field.name)
        if isinstance(value, Mapping):
            written += struct.pack(">BI", _MAP_32, len(value))
            for key, item in value.items():
                encoder.encode_into(to_plain(key), written, -1)
                encoder.encode_into(to_plain(item), written, -1)
        else:
            encoder.encode_into(to_plain(value), written, -1)
    return bytes(written)


def decode_delta(data: bytes) -> SnapshotDelta:
    """Read a delta; raise `ConfigError`."""
    try:
        plain = msgspec.msgpack.decode(data)
    except msgspec.DecodeError as error:
        raise ConfigError(f"a change of the mesh cannot be read: {error}") from error
    delta = from_plain(SnapshotDelta, plain)
    assert isinstance(delta, SnapshotDelta)
    return delta


def _changed(old: Mapping[Key, Value], new: Mapping[Key, Value]) -> dict[Key, Value]:
    if old is new:
        return {}
    # Nearly everything is the same object: the loop over all of it is the interpreter's.
    moved = compress(new.items(), map(is_not, map(old.get, new), new.values()))
    return {key: value for key, value in moved if old.get(key) != value}


def _gone(old: Mapping[Key, Value], new: Mapping[Key, Value]) -> tuple[Key, ...]:
    if old is new:
        return ()
    return tuple(sorted(compress(old, map(not_, map(new.__contains__, old))), key=str))


def _merged(
    old: Mapping[Key, Value], changed: Mapping[Key, Value], gone: tuple[Key, ...]
) -> Mapping[Key, Value]:
    if not changed and not gone:
        return old
    merged = {**old, **changed}
    for key in gone:
        merged.pop(key, None)
    return merged
