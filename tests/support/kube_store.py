"""What the API stand-in knows: objects, versions, and the history that watches follow.

Keeps the rules of a real server that clients trip over: one counter of versions for everything,
`generation` that grows with the spec only, `status` written through its own door, optimistic
locking, a history that is cut off (410), lists that show one instant on all their pages.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.support.kube_apply import Applied, ApplyConflictError

Object: TypeAlias = "dict[str, object]"
Name = tuple[str, str]
"""Namespace (empty for none) and name."""


class StatusError(Exception):
    """A request fails with a metav1.Status."""

    def __init__(self, code: int, reason: str, message: str, retry_after_s: float = 0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.code = code
        self.reason = reason

    @property
    def body(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "code": self.code,
        }


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the history."""

    version: int
    type: str
    raw: bytes


@dataclass(slots=True)
class Collection:
    """All objects of one plural: its versions share them."""

    kind: str
    api_versions: tuple[str, ...]
    objects: dict[Name, bytes] = field(default_factory=dict)
    history: list[Event] = field(default_factory=list)
    oldest: int = 0
    """Changes up to this version are forgotten."""


class KubeStore:
    """All collections, with the counter that they share."""

    def __init__(self) -> None:
        self.version = 1000
        self.collections: dict[str, Collection] = {}
        self._tokens: dict[str, tuple[int, list[bytes]]] = {}
        self._numbers = itertools.count(1)
        self._applied: dict[tuple[str, Name], Applied] = {}

    def serve(self, plural: str, kind: str, *api_versions: str) -> None:
        """Begin to serve a kind; `plural` is `plural.group`, or `plural` in the core group."""
        self.collections[plural] = Collection(kind, api_versions)

    # -- reading --------------------------------------------------------------------------------

    def get(self, name: str, key: Name) -> Object:
        raw = self.collection(name).objects.get(key)
        if raw is None:
            raise StatusError(404, "NotFound", f'{name} "{key[1]}" not found')
        found: Object = json.loads(raw)
        return found

    def collection(self, name: str) -> Collection:
        found = self.collections.get(name)
        if found is None:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        return found

    def page(
        self, name: str, namespace: str, limit: int, token: str
    ) -> tuple[int, list[bytes], str, int]:
        """One page: version, items, token of the next page, number of items left."""
        if token:
            if token not in self._tokens:
                raise StatusError(410, "Expired", "The provided continue parameter is too old")
            version, items = self._tokens.pop(token)
        else:
            objects = self.collection(name).objects
            keys = sorted(key for key in objects if namespace in ("", key[0]))
            version, items = self.version, [objects[key] for key in keys]
        if not limit or len(items) <= limit:
            return version, items, "", 0
        rest = items[limit:]
        following = f"token-{next(self._numbers)}"
        self._tokens[following] = (version, rest)
        return version, items[:limit], following, len(rest)

    # -- writing --------------------------------------------------------------------------------

    def create(self, name: str, manifest: Mapping[str, object]) -> Object:
        collection = self.collection(name)
        made: Object = json.loads(json.dumps(manifest))
        meta = metadata(made)
        key = (str(meta.get("namespace", "")), str(meta["name"]))
        if key in collection.objects:
            raise StatusError(409, "AlreadyExists", f'{name} "{key[1]}" already exists')
        meta.setdefault("uid", f"00000000-0000-4000-8000-{next(self._numbers):012d}")
        meta.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        meta["generation"] = 1
        made.setdefault("apiVersion", collection.api_versions[0])
        made.setdefault("kind", collection.kind)
        return self._write(name, key, made, "ADDED")

    def update(
        self, name: str, key: Name, manifest: Mapping[str, object], *, status: bool
    ) -> Object:
        """Replace an object, or only its status; 409 if it is not the version that was read."""
        old = self.get(name, key)
        sent = str(metadata(dict(manifest)).get("resourceVersion", ""))
        if sent and sent != metadata(old)["resourceVersion"]:
            message = (
                "the object has been modified; please apply your changes to the latest version"
            )
            raise StatusError(409, "Conflict", message)
        new: Object = json.loads(json.dumps(manifest))
        if status:
            sent_meta = metadata(new)
            new = {**old, "status": new.get("status", old.get("status"))}
            if name == "pods":
                # Labels and annotations go through this door too (registry/core/pod strategy).
                kept = {"labels", "annotations"} & sent_meta.keys()
                meta = {**metadata(old), **{field: sent_meta[field] for field in kept}}
                new["metadata"] = meta
        elif "status" in old and name in self.with_status:
            new["status"] = old["status"]
        meta, before = metadata(new), metadata(old)
        for fixed in ("uid", "creationTimestamp", "generation", "name", "namespace"):
            if fixed in before:
                meta[fixed] = before[fixed]
        if new.get("spec") != old.get("spec"):
            meta["generation"] = int(str(before.get("generation", 0))) + 1
        return self._write(name, key, new, "MODIFIED")

    def apply(
        self, name: str, key: Name, manifest: Mapping[str, object], manager: str, *, force: bool
    ) -> Object:
        """Server-side apply: creates, merges, or conflicts."""
        applied = self._applied.setdefault((name, key), Applied())
        live = self.get(name, key) if key in self.collection(name).objects else {}
        sent: Object = json.loads(json.dumps(manifest))
        try:
            made = applied.apply(live, sent, manager, force=force)
        except ApplyConflictError as error:
            raise StatusError(409, "Conflict", str(error)) from error
        if not live:
            return self.create(name, made)
        if made == live:
            # Nothing is written, no watch hears of it.
            return live
        return self.update(name, key, made, status=False)

    def delete(self, name: str, key: Name) -> Object:
        gone = self._delete(name, key)
        self._collect_garbage(str(metadata(gone).get("uid")))
        return gone

    def _collect_garbage(self, uid: str) -> None:
        """What the garbage collector of a cluster does when an owner goes."""
        for name, collection in self.collections.items():
            for key, raw in list(collection.objects.items()):
                if uid.encode() not in raw:
                    continue
                owners = metadata(json.loads(raw)).get("ownerReferences", [])
                if isinstance(owners, list) and any(o.get("uid") == uid for o in owners):
                    self.delete(name, key)

    def _delete(self, name: str, key: Name) -> Object:
        self._applied.pop((name, key), None)
        gone = self.get(name, key)
        collection = self.collection(name)
        del collection.objects[key]
        self.version += 1
        metadata(gone)["resourceVersion"] = str(self.version)
        self._record(name, Event(self.version, "DELETED", json.dumps(gone).encode()))
        return gone

    def load(self, name: str, key: Name, raw: bytes) -> None:
        """Put an encoded object with a version of its own in place, without history."""
        self.collection(name).objects[key] = raw

    # -- faults ---------------------------------------------------------------------------------

    def forget_history(self) -> None:
        """Compact: watches from before now get 410."""
        for collection in self.collections.values():
            collection.history.clear()
            collection.oldest = self.version + 1
        self.version += 1

    def forget_tokens(self) -> None:
        """Pages of lists under way get 410."""
        self._tokens.clear()

    with_status = frozenset(
        {"pods", "services", "deployments.apps"}
        | {
            f"{plural}.gateway.networking.k8s.io"
            for plural in (
                "gatewayclasses",
                "gateways",
                "httproutes",
                "grpcroutes",
                "tlsroutes",
                "tcproutes",
            )
        }
        | {f"{p}.meshnode.io" for p in ("authorizationpolicies", "peerauthentications")}
        | {f"{p}.meshnode.io" for p in ("trafficpolicies", "workloads", "meshconfigs")}
    )
    """Kinds whose status is a subresource: the main door does not change it."""

    def _write(self, name: str, key: Name, made: Object, event: str) -> Object:
        self.version += 1
        metadata(made)["resourceVersion"] = str(self.version)
        raw = json.dumps(made).encode()
        self.collection(name).objects[key] = raw
        self._record(name, Event(self.version, event, raw))
        return made

    def _record(self, name: str, event: Event) -> None:
        self.collection(name).history.append(event)


def metadata(item: Object) -> Object:
    """metadata of an object."""
    found = item.setdefault("metadata", {})
    if not isinstance(found, dict):
        raise StatusError(400, "BadRequest", "metadata is no object")
    return found


def merge_patch(target: object, patch: object) -> object:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result
