"""Tables in memory that obey the kernel's contract, and can be full."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from mesh.errors import KernelError


class MemoryTable:
    """Entries in a dictionary; `log` is shared by all tables and shows the order of steps."""

    def __init__(self, name: str, log: list[tuple[str, str]], limit: int = 1000) -> None:
        self.name, self.log, self.limit = name, log, limit
        self.entries: dict[bytes, bytes] = {}

    def items(self) -> Iterable[tuple[bytes, bytes]]:
        return list(self.entries.items())

    def scan(self) -> Iterable[bytes]:
        return list(self.entries)

    def lookup(self, key: bytes) -> bytes | None:
        return self.entries.get(key)

    def update(self, key: bytes, value: bytes) -> None:
        if key not in self.entries and len(self.entries) >= self.limit:
            raise KernelError(f"map {self.name}", errno.E2BIG)
        self.log.append(("write", self.name))
        self.entries[key] = value

    def delete(self, key: bytes) -> bool:
        self.log.append(("delete", self.name))
        return self.entries.pop(key, None) is not None


class MemoryTables:
    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.tables: dict[str, MemoryTable] = {}

    def __getitem__(self, name: str) -> MemoryTable:
        return self.tables.setdefault(name, MemoryTable(name, self.log))

    def content(self) -> dict[str, dict[bytes, bytes]]:
        return {name: table.entries for name, table in self.tables.items() if table.entries}
