"""Our part of a status put into what is there. Pure.

Only what is ours changes: conditions of our types, and of a route's `parents` the entries with our
controller's name. What is newer than what we know stays; an unchanged condition keeps its time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from mesh.routing.status import Condition, ParentStatus

Plain: TypeAlias = "dict[str, object]"

MAX_PARENTS = 32
"""Gateway API RouteStatus."""


def merge_conditions(
    existing: object, ours: Iterable[Condition], now: str, drop: Iterable[str] = ()
) -> list[Plain]:
    """Put conditions into a list of them, each in its place.

    Args:
        now: RFC 3339, for conditions whose status changes.
        drop: types of ours that do not hold any more.
    """
    wanted = {item.type: item for item in ours}
    gone = set(drop) - wanted.keys()
    merged: list[Plain] = []
    for known in _dicts(existing):
        kind = str(known.get("type"))
        item = wanted.pop(kind, None)
        if item is not None:
            merged.append(_merged(known, item, now))
        elif kind not in gone:
            merged.append(known)
    merged += [_new(item, now) for item in wanted.values()]
    return merged


def merge_parents(
    existing: object, ours: Sequence[ParentStatus], controller: str, now: str
) -> list[Plain]:
    """Put our entries into a route's `status.parents`; entries of others stay as they are."""
    known = _dicts(existing)
    foreign = [item for item in known if item.get("controllerName") != controller]
    before = {_parent_key(item.get("parentRef")): item for item in known if item not in foreign}
    made: list[Plain] = []
    for status in ours[: max(0, MAX_PARENTS - len(foreign))]:
        ref = _parent_ref(status)
        old = before.get(_parent_key(ref), {})
        conditions = merge_conditions(
            old.get("conditions"), status.conditions, now, drop=("PartiallyInvalid",)
        )
        made.append({"parentRef": ref, "controllerName": controller, "conditions": conditions})
    return [*foreign, *made]


def _merged(known: Plain, item: Condition, now: str) -> Plain:
    observed = known.get("observedGeneration", 0)
    if isinstance(observed, int) and observed > item.observed_generation:
        return known
    made = _new(item, now)
    if known.get("status") == made["status"] and known.get("lastTransitionTime"):
        made["lastTransitionTime"] = known["lastTransitionTime"]
    return made


def _new(item: Condition, now: str) -> Plain:
    return {
        "type": item.type,
        "status": "True" if item.status else "False",
        "reason": item.reason,
        # metav1.Condition allows 32,768 characters.
        "message": item.message[:32_000],
        "observedGeneration": item.observed_generation,
        "lastTransitionTime": now,
    }


def _parent_ref(status: ParentStatus) -> Plain:
    parent = status.parent
    ref: Plain = {
        "group": parent.group,
        "kind": parent.kind,
        "namespace": parent.namespace,
        "name": parent.name,
    }
    if parent.section_name is not None:
        ref["sectionName"] = parent.section_name
    if parent.port is not None:
        ref["port"] = parent.port
    return ref


def _parent_key(ref: object) -> tuple[str, ...]:
    fields = ref if isinstance(ref, Mapping) else {}
    names = ("group", "kind", "namespace", "name", "sectionName", "port")
    return tuple(str(fields.get(name, "")) for name in names)


def _dicts(items: object) -> list[Plain]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
