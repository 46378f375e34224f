"""What is known of one kind: pure, no I/O. Lists replace it, events change it.

A list replaces everything at once, so nothing is deleted before its last page is here. Events that
are older than what is known (a duplicate, a replica that lags behind) change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from mesh.model.snapshot import Problem
from mesh.sources.kubernetes.items import Entry, HeadMetadata
from mesh.sources.objects import SourceObject


class Change(StrEnum):
    """What an event of a watch says (metav1.WatchEvent.type), as far as it is about an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


def key_of(head: HeadMetadata) -> str:
    """Namespace and name in one; neither may contain a slash."""
    return f"{head.namespace}/{head.name}"


def version_number(version: str) -> int | None:
    """Read a resource version as a number; None for a server that counts in another way.

    They are comparable numbers where they are decimal (Kubernetes 1.35, KEP-5504; before that by
    the custom of every server on etcd and kine).
    """
    return int(version) if version.isascii() and version.isdecimal() and len(version) < 25 else None


class KindStore:
    """The objects of one resource."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._newest: int | None = None
        self.is_synced = False
        """A complete list was taken in, or it is certain that there is no such kind."""
        self.trouble: Problem | None = None
        """What keeps the kind from being read; its objects stay as they are."""

    @property
    def objects(self) -> Iterable[SourceObject]:
        """The objects that are, or once were, good."""
        return [entry.item for entry in self._entries.values() if entry.item is not None]

    @property
    def problems(self) -> Iterable[Problem]:
        """What is wrong with single objects, and with the kind."""
        if self.trouble is not None:
            yield self.trouble
        yield from (e.problem for e in self._entries.values() if e.problem is not None)

    @property
    def is_empty(self) -> bool:
        return not self._entries

    def entry(self, key: str) -> Entry | None:
        """What is known of one object."""
        return self._entries.get(key)

    def is_older(self, version: str) -> bool:
        """Whether a list of this version is older than something known here."""
        number = version_number(version)
        return number is not None and self._newest is not None and number < self._newest

    def replace(self, entries: dict[str, Entry], version: str) -> bool:
        """Take in a complete list. Says whether anything is different now."""
        changed = not self.is_synced or _differ(self._entries, entries)
        self._entries = entries
        self._newest = version_number(version)
        self.is_synced = True
        return changed

    def is_news(self, change: Change, head: HeadMetadata) -> bool:
        """Whether an event tells something; what does not need not be decoded."""
        number = version_number(head.resource_version)
        if change is Change.DELETED:
            known = self._entries.get(key_of(head))
            known_number = version_number(known.version) if known is not None else None
            if known_number is None or number is None:
                return known is not None
            return number >= known_number
        return number is None or self._newest is None or number > self._newest

    def put(self, key: str, entry: Entry) -> bool:
        """Take in an added or modified object. Says whether anything is different now."""
        before = self._entries.get(key)
        self._entries[key] = entry
        self.advance(entry.version)
        return before is None or _is_different(before, entry)

    def remove(self, key: str, version: str) -> None:
        """Take out a deleted object."""
        self._entries.pop(key, None)
        self.advance(version)

    def advance(self, version: str) -> None:
        """Remember that everything up to a version was seen (bookmarks say so too)."""
        number = version_number(version)
        if number is not None and (self._newest is None or number > self._newest):
            self._newest = number

    def declare_missing(self) -> bool:
        """There is no such kind. Says whether anything is different now."""
        changed = not self.is_synced
        self.is_synced = True
        return changed


def _differ(before: dict[str, Entry], after: dict[str, Entry]) -> bool:
    if before.keys() != after.keys():
        return True
    return any(_is_different(before[key], entry) for key, entry in after.items())


def _is_different(before: Entry, after: Entry) -> bool:
    """Whether the mesh could tell; a new resource version alone (a heartbeat) is no change."""
    return (
        before.item is not after.item or before.problem != after.problem or before.uid != after.uid
    )
