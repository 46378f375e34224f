"""Server-side apply, as far as clients can tell (Kubernetes, "Server-Side Apply").

Who applied what is remembered per object and manager: a field that a manager no longer applies
goes away unless somebody else applies it too; a field of another manager is a conflict unless
forced. Lists of objects merge by `type` or `name` where every item has it, else they are replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

Object: TypeAlias = "dict[str, object]"
Path = tuple[str, ...]


class ApplyConflictError(Exception):
    """Another manager applies another value to a field."""


class Applied:
    """What every manager applied to one object."""

    def __init__(self) -> None:
        self._by_manager: dict[str, Mapping[Path, object]] = {}

    def apply(self, live: Object, manifest: Object, manager: str, *, force: bool) -> Object:
        """Merge a manifest into the live object; raise `ApplyConflictError`."""
        wanted = dict(_leaves(manifest, ()))
        for other, fields in self._by_manager.items():
            if other == manager:
                continue
            clash = {p for p in wanted if p in fields and fields[p] != wanted[p]}
            if clash and not force:
                text = ", ".join(".".join(path) for path in sorted(clash))
                raise ApplyConflictError(f"conflict with {other!r}: {text}")
            self._by_manager[other] = {p: v for p, v in fields.items() if p not in clash}
        owned = {p for m, f in self._by_manager.items() if m != manager for p in f}
        merged = dict(live)
        for path in self._by_manager.get(manager, {}):
            if path not in wanted and path not in owned:
                merged = _without(merged, path)
        self._by_manager[manager] = wanted
        found = _merge(merged, manifest)
        assert isinstance(found, dict)
        return found


def _key(items: object) -> str:
    """The field by which a list merges; empty if it is replaced."""
    if isinstance(items, list) and items and all(isinstance(item, dict) for item in items):
        for name in ("type", "name"):
            if all(name in item for item in items):
                return name
    return ""


def _leaves(value: object, path: Path) -> list[tuple[Path, object]]:
    if isinstance(value, dict) and value:
        return [leaf for name, item in value.items() for leaf in _leaves(item, (*path, name))]
    if isinstance(value, list) and _key(value):
        name = _key(value)
        return [leaf for item in value for leaf in _leaves(item, (*path, f"{name}={item[name]}"))]
    return [(path, value)]


def _merge(old: object, new: object) -> object:
    if isinstance(old, dict) and isinstance(new, dict):
        merged = dict(old)
        for name, item in new.items():
            merged[name] = _merge(old.get(name), item)
        return merged
    if isinstance(old, list) and isinstance(new, list) and _key(new) and _key(old) == _key(new):
        name = _key(new)
        known = {item[name]: item for item in old}
        known |= {item[name]: _merge(known.get(item[name]), item) for item in new}
        return list(known.values())
    return new


def _without(value: Object, path: Path) -> Object:
    """Drop a field, and whatever becomes empty by that."""
    head, *rest = path
    child = value.get(head)
    if not rest:
        return {name: item for name, item in value.items() if name != head}
    if isinstance(child, dict):
        left: object = _without(child, tuple(rest))
    elif isinstance(child, list):
        left = _without_item(child, tuple(rest))
    else:
        return value
    if not left:
        return {name: item for name, item in value.items() if name != head}
    return {**value, head: left}


def _without_item(items: list[Object], path: Path) -> list[Object]:
    name, _, wanted = path[0].partition("=")
    found: list[Object] = []
    for item in items:
        if str(item.get(name)) != wanted:
            found.append(item)
        elif len(path) > 1:
            left = _without(item, path[1:])
            # An item of which only its key is left was applied by nobody else.
            if set(left) - {name}:
                found.append(left)
    return found
