"""Make the kernel's maps equal to a `KernelState`: idempotent, add before delete, verdicts last.

Class numbers may mean something else in the next revision. While they move, the verdicts are
emptied: without a verdict a connection goes to ztunnel, which is always right.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from agent.capture.change import StateChange
from agent.capture.desired import ConfigEntry, KernelState
from agent.capture.maps import (
    Entries,
    decode_pod,
    decode_workload,
    encode_config,
    encode_state,
)
from bpf.layout import ConfigFlag
from mesh.errors import KernelError

_ORDER = ("mn_backend", "mn_exclude", "mn_exclude_net", "mn_probe", "mn_workload", "mn_service")
"""What is pointed at comes before what points to it; stale entries are removed in reverse."""

_LARGE = frozenset({"mn_backend", "mn_service", "mn_workload"})
"""Hash maps that grow with the mesh: never held here as a whole."""


class EntryTable(Protocol):
    """One map, as far as reconciling needs it (`agent.capture.table.Table`)."""

    def items(self) -> Iterable[tuple[bytes, bytes]]: ...

    def scan(self) -> Iterable[bytes]: ...

    def lookup(self, key: bytes) -> bytes | None: ...

    def update(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> bool: ...


class EntryTables(Protocol):
    """All maps by name (`agent.capture.pins.PinnedMaps`)."""

    def __getitem__(self, name: str) -> EntryTable: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileSummary:
    """Numbers of entries written and removed, by map; empty if nothing had to change."""

    written: Mapping[str, int]
    removed: Mapping[str, int]

    @property
    def changed(self) -> bool:
        return bool(self.written or self.removed)


def reconcile(tables: EntryTables, state: KernelState) -> ReconcileSummary:
    """Make the maps equal to a state. The pods map gets no new entries and loses none (see
    `enrolment`).

    Raises `KernelError` if a map is full, after applying everything that fits; from then on what
    is not found in the maps goes to ztunnel instead of being left alone.
    """
    desired = encode_state(state)
    actual = {name: _content(name, tables) for name in desired if name != "mn_config"}
    pods, wanted = actual["mn_enrolled"], desired["mn_enrolled"]
    run = _Run(tables)
    moved = _classes_moved(tables, desired)
    run.remove("mn_verdict", _withdrawn(actual["mn_verdict"], desired["mn_verdict"], moved=moved))
    for name in _ORDER:
        run.write(name, _different(desired[name], actual[name]))
    run.write("mn_enrolled", _different({k: v for k, v in wanted.items() if k in pods}, pods))
    run.write(
        "mn_verdict", _different(desired["mn_verdict"], {} if moved else actual["mn_verdict"])
    )
    for name in reversed(_ORDER):
        run.remove(name, [key for key, _ in tables[name].items() if key not in desired[name]])
    run.finish(state.config)
    return ReconcileSummary(written=run.written, removed=run.removed)


def apply_change(tables: EntryTables, change: StateChange) -> ReconcileSummary:
    """Carry out a change of maps that are as they should be; otherwise like `reconcile`."""
    run = _Run(tables)
    run.remove("mn_verdict", change.maps["mn_verdict"].remove)
    for name in _ORDER:
        run.write(name, change.maps[name].write.items())
    pods = tables["mn_enrolled"]
    there = {key: value for key, value in change.pods.items() if pods.lookup(key) is not None}
    run.write("mn_enrolled", there.items())
    run.write("mn_verdict", change.maps["mn_verdict"].write.items())
    for name in reversed(_ORDER):
        run.remove(name, change.maps[name].remove)
    run.finish(change.config)
    return ReconcileSummary(written=run.written, removed=run.removed)


class _Lookups(Mapping[bytes, bytes]):
    """A large hash map as it is now, read entry by entry."""

    def __init__(self, table: EntryTable) -> None:
        self._table = table

    def __getitem__(self, key: bytes) -> bytes:
        value = self._table.lookup(key)
        if value is None:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[bytes]:
        return (key for key, _ in self._table.items())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _content(name: str, tables: EntryTables) -> Entries:
    # A look-up in a trie finds the longest match, which need not be the entry asked for.
    return _Lookups(tables[name]) if name in _LARGE else dict(tables[name].items())


def _different(desired: Entries, actual: Entries) -> Iterator[tuple[bytes, bytes]]:
    return ((key, value) for key, value in desired.items() if actual.get(key) != value)


def _withdrawn(actual: Entries, desired: Entries, *, moved: bool) -> list[bytes]:
    """Verdicts to remove first: a changed one may not meet new endpoints."""
    return [key for key, value in actual.items() if moved or desired.get(key) != value]


def _classes_moved(tables: EntryTables, desired: Mapping[str, Entries]) -> bool:
    """Whether a workload that stays gets another policy class."""
    for key, old in tables["mn_workload"].items():
        new = desired["mn_workload"].get(key)
        if new and decode_workload(new).dst_class != decode_workload(old).dst_class:
            return True
    for key, old in tables["mn_enrolled"].items():
        new = desired["mn_enrolled"].get(key)
        if new and decode_pod(new).src_class != decode_pod(old).src_class:
            return True
    return False


class _Run:
    """One pass over the maps; remembers the first full one."""

    def __init__(self, tables: EntryTables) -> None:
        self.tables = tables
        self.written: dict[str, int] = {}
        self.removed: dict[str, int] = {}
        self.full: KernelError | None = None

    def write(self, name: str, entries: Iterable[tuple[bytes, bytes]]) -> None:
        table = self.tables[name]
        for key, value in entries:
            try:
                table.update(key, value)
            except KernelError as error:
                if error.errno not in (errno.E2BIG, errno.ENOSPC, errno.ENOMEM):
                    raise
                self.full = self.full or error
                continue
            self.written[name] = self.written.get(name, 0) + 1

    def remove(self, name: str, keys: Iterable[bytes]) -> None:
        table = self.tables[name]
        count = sum(table.delete(key) for key in keys)
        if count:
            self.removed[name] = self.removed.get(name, 0) + count

    def finish(self, config: ConfigEntry) -> None:
        """Write the settings last: until they are there, enrolled pods are refused."""
        if self.full:
            config = replace(config, flags=config.flags | ConfigFlag.INCOMPLETE)
        raw = encode_config(config)
        if self.tables["mn_config"].lookup(bytes(4)) != raw:
            self.write("mn_config", [(bytes(4), raw)])
        if self.full:
            raise self.full
