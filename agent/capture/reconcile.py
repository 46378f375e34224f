"""Make the kernel's maps equal to a `KernelState`: idempotent, add before delete, verdicts last.

Class numbers may mean something else in the next revision. While they move, the verdicts are
emptied: without a verdict a connection goes to ztunnel, which is always right.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from agent.capture.desired import KernelState
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


class EntryTable(Protocol):
    """One map, as far as reconciling needs it (`agent.capture.table.Table`)."""

    def items(self) -> Iterable[tuple[bytes, bytes]]: ...

    def lookup(self, key: bytes) -> bytes | None: ...

    def update(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> bool: ...


class EntryTables(Protocol):
    """All maps by name (`agent.capture.pins.PinnedMaps`)."""

    def __getitem__(self, name: str) -> EntryTable: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MapChange:
    """What one map needs: `write` is new or different, `remove` is stale."""

    write: Entries
    remove: frozenset[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileSummary:
    """Numbers of entries written and removed, by map; empty if nothing had to change."""

    written: Mapping[str, int]
    removed: Mapping[str, int]

    @property
    def changed(self) -> bool:
        return bool(self.written or self.removed)


def plan_map(desired: Entries, actual: Entries) -> MapChange:
    """Compare two contents."""
    return MapChange(
        write={key: value for key, value in desired.items() if actual.get(key) != value},
        remove=frozenset(actual.keys() - desired.keys()),
    )


def classes_moved(desired: Mapping[str, Entries], actual: Mapping[str, Entries]) -> bool:
    """Whether a workload that stays gets another policy class."""
    for key, old in actual["mn_workload"].items():
        new = desired["mn_workload"].get(key)
        if new and decode_workload(new).dst_class != decode_workload(old).dst_class:
            return True
    for key, old in actual["mn_enrolled"].items():
        new = desired["mn_enrolled"].get(key)
        if new and decode_pod(new).src_class != decode_pod(old).src_class:
            return True
    return False


def reconcile(tables: EntryTables, state: KernelState) -> ReconcileSummary:
    """Apply a state. The pods map gets no new entries and loses none (see `enrolment`).

    Raises `KernelError` if a map is full, after applying everything that fits; from then on what
    is not found in the maps goes to ztunnel instead of being left alone.
    """
    desired = encode_state(state)
    actual = {name: dict(tables[name].items()) for name in desired if name != "mn_config"}
    desired["mn_enrolled"] = {
        key: value for key, value in desired["mn_enrolled"].items() if key in actual["mn_enrolled"]
    }
    run = _Run(tables)
    verdicts = plan_map(desired["mn_verdict"], actual["mn_verdict"])
    if classes_moved(desired, actual):
        run.remove("mn_verdict", frozenset(actual["mn_verdict"]))
        verdicts = MapChange(write=desired["mn_verdict"], remove=frozenset())
    else:
        # A changed verdict is withdrawn first: the old one may not meet new endpoints.
        run.remove("mn_verdict", verdicts.remove | (verdicts.write.keys() & actual["mn_verdict"]))
    changes = {name: plan_map(desired[name], actual[name]) for name in _ORDER}
    for name in _ORDER:
        run.write(name, changes[name].write)
    run.write("mn_enrolled", plan_map(desired["mn_enrolled"], actual["mn_enrolled"]).write)
    run.write("mn_verdict", verdicts.write)
    for name in reversed(_ORDER):
        run.remove(name, changes[name].remove)
    run.finish(state)
    return ReconcileSummary(written=run.written, removed=run.removed)


class _Run:
    """One pass over the maps; remembers the first full one."""

    def __init__(self, tables: EntryTables) -> None:
        self.tables = tables
        self.written: dict[str, int] = {}
        self.removed: dict[str, int] = {}
        self.full: KernelError | None = None

    def write(self, name: str, entries: Entries) -> None:
        table = self.tables[name]
        for key, value in entries.items():
            try:
                table.update(key, value)
            except KernelError as error:
                if error.errno not in (errno.E2BIG, errno.ENOSPC, errno.ENOMEM):
                    raise
                self.full = self.full or error
                continue
            self.written[name] = self.written.get(name, 0) + 1

    def remove(self, name: str, keys: frozenset[bytes]) -> None:
        table = self.tables[name]
        count = sum(table.delete(key) for key in keys)
        if count:
            self.removed[name] = self.removed.get(name, 0) + count

    def finish(self, state: KernelState) -> None:
        """Write the settings last: until they are there, enrolled pods are refused."""
        config = state.config
        if self.full:
            config = replace(config, flags=config.flags | ConfigFlag.INCOMPLETE)
        raw = encode_config(config)
        if self.tables["mn_config"].lookup(bytes(4)) != raw:
            self.write("mn_config", {bytes(4): raw})
        if self.full:
            raise self.full
