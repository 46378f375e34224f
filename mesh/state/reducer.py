"""All objects to one snapshot.

Pure and total: whatever is wrong with an object becomes a `Problem`, the rest goes on. What did
not change stays the same Python object, and a set of objects that changes nothing returns the
previous snapshot itself.

A `Reducer` remembers what it read of every object, so that a change costs what it changes and not
what the cluster holds; `reduce` is one step from nothing. Both say the same, problems included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from mesh.model.snapshot import MeshSnapshot, Problem
from mesh.model.workload import Workload, WorkloadUid
from mesh.sources.objects import ObjectSet
from mesh.state.carry import carry_indexes
from mesh.state.context import Context
from mesh.state.memory import Memory, NameClash, without_duplicates

Key = TypeVar("Key", bound=str)
Value = TypeVar("Value")


def reduce(objects: ObjectSet, previous: MeshSnapshot | None) -> MeshSnapshot:
    """Build the next snapshot; its revision grows by one if anything changed, problems included."""
    return Reducer(previous).reduce(objects)


class Reducer:
    """Builds one snapshot after the other."""

    def __init__(self, previous: MeshSnapshot | None = None) -> None:
        self._snapshot = previous
        self._memory = Memory(previous)
        self.touched: frozenset[WorkloadUid] | None = None
        """The only workloads that the last two snapshots need not share; None: any of them."""

    def reduce(self, objects: ObjectSet) -> MeshSnapshot:
        """Build the next snapshot; the previous one itself if nothing changed."""
        memory, is_fresh = self._memory, self._memory.is_fresh
        self.touched = None
        try:
            touched = memory.take(objects.objects)
        except NameClash:
            context, is_fresh = Context(), True
            first = without_duplicates(objects.objects, context)
            memory = Memory(self._snapshot)
            touched = memory.take(first, context.take_problems())
            # With duplicates there is nothing to go on from; the next set is read anew.
            self._memory = Memory(None)
        previous, self._snapshot = self._snapshot, None
        built = _build(memory, previous, objects.problems, touched, is_fresh=is_fresh)
        self._snapshot = previous if previous is not None and _is_same(previous, built) else built
        if memory is not self._memory:
            self._memory = Memory(self._snapshot)
        elif not is_fresh:
            self.touched = frozenset(touched)
        return self._snapshot


def _build(
    memory: Memory,
    previous: MeshSnapshot | None,
    problems: tuple[Problem, ...],
    touched: set[WorkloadUid],
    *,
    is_fresh: bool,
) -> MeshSnapshot:
    old, few, members = previous or MeshSnapshot(revision=0), memory.few, memory.members
    workloads: Mapping[WorkloadUid, Workload] = members.workloads
    if is_fresh or not touched:
        workloads = _keep_all(old.workloads, workloads)
    built = MeshSnapshot(
        revision=old.revision + 1,
        settings=old.settings if old.settings == few.settings else few.settings,
        workloads=workloads,
        services=_keep_all(old.services, memory.services.services),
        policies=_keep(old.policies, few.policies.authorization),
        peer_authentications=_keep(old.peer_authentications, few.policies.peer),
        request_authentications=_keep(old.request_authentications, few.policies.request),
        routes=_keep(old.routes, few.routing.routes),
        grants=_keep(old.grants, few.routing.grants),
        traffic_policies=_keep(old.traffic_policies, few.routing.traffic_policies),
        problems=(*problems, *memory.problems),
    )
    vars(built)["by_address"] = members.by_address
    if not is_fresh:
        carry_indexes(old, built, touched)
    return built


def _is_same(old: MeshSnapshot, new: MeshSnapshot) -> bool:
    """Whether two snapshots say the same; equal maps are one object here."""
    return (
        old.settings is new.settings
        and old.problems == new.problems
        and all(getattr(old, name) is getattr(new, name) for name in _MAPS)
    )


_MAPS = (
    "workloads",
    "services",
    "policies",
    "peer_authentications",
    "request_authentications",
    "routes",
    "grants",
    "traffic_policies",
)


def _keep(old: Mapping[Key, Value], new: Mapping[Key, Value]) -> Mapping[Key, Value]:
    """Take equal values, or the whole map, from the previous snapshot."""
    kept = {key: old[key] if old.get(key) == value else value for key, value in new.items()}
    return _keep_all(old, kept)


def _keep_all(old: Mapping[Key, Value], new: Mapping[Key, Value]) -> Mapping[Key, Value]:
    """Take the whole map from the previous snapshot if its values are the same objects."""
    if old is new or len(old) != len(new):
        return old if old is new else new
    return old if all(old.get(key) is value for key, value in new.items()) else new
