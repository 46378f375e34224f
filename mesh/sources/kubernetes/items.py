"""One item of a list, or one event of a watch, to what the store keeps.

Two ways lead from bytes to an object. The quick one decodes only the fields of the schema; what it
does not take goes through `mesh.sources.decode`, which names the field that is wrong. Both end in
the same checks.
"""

from __future__ import annotations

import msgspec

from mesh.model.snapshot import Problem
from mesh.sources.decode import KINDS, Kind, decode
from mesh.sources.fields import FieldError
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.resources import Resource
from mesh.sources.kubernetes.share import Sharer
from mesh.sources.objects import Lenient, PodObject, SourceObject

_QUICK_KINDS = frozenset({"Namespace", "ServiceAccount", "Pod", "Service", "EndpointSlice"})
"""Of Kubernetes itself: they come by the thousand, and the API server has checked them."""


class HeadMetadata(msgspec.Struct, frozen=True, rename="camel"):
    """What tells one object, and one state of it, from all others."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class Head(msgspec.Struct, frozen=True):
    """An item before the rest of it is read."""

    metadata: HeadMetadata


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An object as the store keeps it.

    Attributes:
        version: resource version of this state.
        item: the object, or its last good state; None if it never was good.
        problem: what is wrong with it now.
        uid: of a pod of the own node, else empty.
    """

    version: str
    item: SourceObject | None
    problem: Problem | None = None
    uid: str = ""


_head_decoder = msgspec.json.Decoder(Head)


def read_head(raw: msgspec.Raw) -> HeadMetadata:
    """Read name and version of an item; raise `KubeError` if that is no object."""
    try:
        return _head_decoder.decode(raw).metadata
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KubeError(f"an object of the API server cannot be read: {error}") from error


class ItemReader:
    """Reads the items of one resource.

    Args:
        api_version: the version that is being read.
        node: whose pods' uids are kept.
    """

    def __init__(self, resource: Resource, api_version: str, *, node: str, sharer: Sharer) -> None:
        self._resource = resource
        self._api_version = api_version
        self._node = node
        self._sharer = sharer
        self._kind: Kind = KINDS[resource.kind]
        schema = self._kind.schema
        self._quick: msgspec.json.Decoder[Lenient] | None = None
        if resource.kind in _QUICK_KINDS and issubclass(schema, Lenient):
            self._quick = msgspec.json.Decoder(schema)

    def read(self, raw: msgspec.Raw, head: HeadMetadata, before: Entry | None) -> Entry:
        """Read an item; a broken one keeps its last good state, with the problem beside it."""
        try:
            item = self._read_quickly(raw, head) or self._read_carefully(raw)
        except FieldError as error:
            return self._broken(head, before, str(error))
        kept = before.item if before is not None else None
        # What did not change stays the same object: everything behind compares quickly.
        item = kept if kept is not None and kept == item else item
        return Entry(version=head.resource_version, item=item, uid=self._uid(item, head))

    def _read_quickly(self, raw: msgspec.Raw, head: HeadMetadata) -> SourceObject | None:
        if self._quick is None:
            return None
        try:
            body = self._kind.read(self._quick.decode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError, FieldError):
            return None
        body = self._sharer.shrink(body)
        return SourceObject(
            kind=self._resource.kind,
            namespace=self._sharer.part(head.namespace),
            name=body.metadata.name if isinstance(body, PodObject) else head.name,
            where=self._where(head),
            body=body,
        )

    def _read_carefully(self, raw: msgspec.Raw) -> SourceObject:
        try:
            plain = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FieldError((), f"no valid JSON: {error}") from error
        plain = _without_nulls(plain)
        if not isinstance(plain, dict):
            raise FieldError((), "not an object")
        # Items of a list of Kubernetes' own kinds do not repeat what the list says.
        plain = {"apiVersion": self._api_version, "kind": self._resource.kind, **plain}
        item = decode(plain, "")
        return SourceObject(
            kind=item.kind,
            namespace=item.namespace,
            name=item.name,
            where=self._where(HeadMetadata(name=item.name, namespace=item.namespace)),
            body=self._sharer.shrink(item.body),
        )

    def _broken(self, head: HeadMetadata, before: Entry | None, message: str) -> Entry:
        kept = before.item if before is not None else None
        if kept is not None:
            message += " (its last good version stays in force)"
        where = self._where(head)
        problem = Problem(where=where, subject=where, message=message)
        uid = before.uid if before is not None else ""
        return Entry(version=head.resource_version, item=kept, problem=problem, uid=uid)

    def _where(self, head: HeadMetadata) -> str:
        path = f"{head.namespace}/{head.name}" if head.namespace else head.name
        return f"{self._resource.kind} {path}"

    def _uid(self, item: SourceObject, head: HeadMetadata) -> str:
        body = item.body
        local = isinstance(body, PodObject) and body.spec.node_name == self._node != ""
        return head.uid if local else ""


def _without_nulls(value: object) -> object:
    """Drop what is null: it means absent, as in Kubernetes."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
