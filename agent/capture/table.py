"""One open map: entries as bytes, with buffers prepared once.

Not for use by several threads at a time. A lookup costs one system call and no allocation beyond
the returned bytes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from agent.capture import syscalls
from bpf.layout import MapSpec, MapType
from mesh.errors import KernelError

BATCH = 1024
"""Entries fetched by one system call."""


_EXISTING = 2
"""BPF_EXIST: update an entry only if there is one."""


def possible_cpus() -> int:
    """Number of values in an entry of a per-CPU map: highest possible processor + 1."""
    text = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip()
    return int(text.replace(",", "-").split("-")[-1]) + 1


class Table:
    """Owns the descriptor of one map."""

    def __init__(self, spec: MapSpec, fd: int) -> None:
        self.spec = spec
        self.fd = fd
        self.per_cpu = spec.type in (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY)
        self.value_size = spec.value_size
        if self.per_cpu:
            self.value_size = (spec.value_size + 7) // 8 * 8 * possible_cpus()
        self._key = ctypes.create_string_buffer(max(spec.key_size, 1))
        self._value = ctypes.create_string_buffer(max(self.value_size, 1))
        key_at, value_at = ctypes.addressof(self._key), ctypes.addressof(self._value)
        self._attr = syscalls.new_attr("IIQQQ", fd, 0, key_at, value_at, 0)
        self._replace_attr = syscalls.new_attr("IIQQQ", fd, 0, key_at, value_at, _EXISTING)
        self._key_attr = syscalls.new_attr("IIQ", fd, 0, key_at)

    @classmethod
    def open(cls, spec: MapSpec, directory: Path) -> Table:
        """Open a pinned map; raise `KernelError` if it is not there."""
        return cls(spec, syscalls.obj_get(str(directory / spec.name)))

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def lookup(self, key: bytes) -> bytes | None:
        """The value, or None. Per-CPU maps return all processors' values in a row."""
        self._key.raw = key
        if syscalls.bpf_call(syscalls.MAP_LOOKUP, self._attr) < 0:
            self._expect_missing("lookup")
            return None
        return self._value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """Write an entry; E2BIG (a full map) and everything else is a `KernelError`."""
        self._key.raw = key
        self._value.raw = value
        if syscalls.bpf_call(syscalls.MAP_UPDATE, self._attr) < 0:
            number = ctypes.get_errno()
            hint = f"The map is full ({self.spec.max_entries} entries)."
            raise KernelError(
                f"map {self.spec.name}", number, hint if number == errno.E2BIG else ""
            )

    def replace(self, key: bytes, value: bytes) -> bool:
        """Write an entry that is there already; False if there is none."""
        self._key.raw = key
        self._value.raw = value
        if syscalls.bpf_call(syscalls.MAP_UPDATE, self._replace_attr) < 0:
            self._expect_missing("update")
            return False
        return True

    def delete(self, key: bytes) -> bool:
        """Remove an entry; False if there was none."""
        self._key.raw = key
        if syscalls.bpf_call(syscalls.MAP_DELETE, self._key_attr) < 0:
            self._expect_missing("delete")
            return False
        return True

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries. Not a snapshot: what changes meanwhile may be seen or not, never twice."""
        seen: set[bytes] = set()
        for key, value in self._raw_items():
            if key not in seen:
                seen.add(key)
                yield key, value

    def scan(self) -> Iterator[bytes]:
        """All keys, without remembering any: one may come twice while others change the map."""
        return (key for key, _ in self._raw_items())

    def keys(self) -> Iterator[bytes]:
        """All keys, also of maps whose values cannot be read (socket hashes)."""
        seen: set[bytes] = set()
        key: bytes | None = None
        # A deleted key makes the kernel start again: bounded, so that churn cannot hold us here.
        for _ in range(2 * max(self.spec.max_entries, 1) + 1):
            key = self._next_key(key)
            if key is None:
                return
            if key not in seen:
                seen.add(key)
                yield key

    def __len__(self) -> int:
        return sum(1 for _ in self.keys())

    def _raw_items(self) -> Iterator[tuple[bytes, bytes]]:
        # Batches are kept to plain hash tables: other types have them from various versions on.
        if self.spec.type is MapType.HASH:
            yield from self._batched()
            return
        for key in self.keys():
            value = self.lookup(key)
            if value is not None:
                yield key, value

    def _batched(self) -> Iterator[tuple[bytes, bytes]]:
        size, width = self.spec.key_size, self.value_size
        room = BATCH
        keys = ctypes.create_string_buffer(size * room)
        values = ctypes.create_string_buffer(width * room)
        position = ctypes.create_string_buffer(max(size, 8))
        start = 0
        while True:
            attr = syscalls.new_attr(
                "QQQQIIQQ",
                *(start, ctypes.addressof(position), ctypes.addressof(keys)),
                *(ctypes.addressof(values), room, self.fd, 0, 0),
            )
            result = syscalls.bpf_call(syscalls.LOOKUP_BATCH, attr)
            number = ctypes.get_errno() if result < 0 else 0
            if number == errno.ENOSPC:  # one bucket holds more than fits
                room *= 2
                keys = ctypes.create_string_buffer(size * room)
                values = ctypes.create_string_buffer(width * room)
                continue
            if number not in (0, errno.ENOENT):
                raise KernelError(f"map {self.spec.name}: read", number)
            (count,) = struct.unpack_from("=I", attr.raw, 32)
            raw_keys, raw_values = keys.raw, values.raw
            for i in range(count):
                yield raw_keys[i * size : (i + 1) * size], raw_values[i * width : (i + 1) * width]
            if number == errno.ENOENT:
                return
            start = ctypes.addressof(position)

    def _next_key(self, key: bytes | None) -> bytes | None:
        at = 0
        if key is not None:
            self._key.raw = key
            at = ctypes.addressof(self._key)
        following = ctypes.create_string_buffer(self.spec.key_size)
        attr = syscalls.new_attr("IIQQ", self.fd, 0, at, ctypes.addressof(following))
        if syscalls.bpf_call(syscalls.MAP_NEXT_KEY, attr) < 0:
            self._expect_missing("next key")
            return None
        return following.raw

    def _expect_missing(self, what: str) -> None:
        number = ctypes.get_errno()
        if number != errno.ENOENT:
            raise KernelError(f"map {self.spec.name}: {what}", number)


def create_table(spec: MapSpec) -> Table:
    """Make the map, unpinned."""
    if spec.type is not MapType.SK_STORAGE:
        fd = syscalls.map_create(
            spec.name, spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags
        )
        return Table(spec, fd)
    btf = syscalls.btf_load(_storage_btf(spec.value_size))
    try:
        fd = syscalls.map_create(
            spec.name,
            spec.type,
            *(spec.key_size, spec.value_size, 0, spec.flags),
            btf=(btf, 1, 3),
        )
    finally:
        os.close(btf)
    return Table(spec, fd)


def _storage_btf(value_size: int) -> bytes:
    """The least type information the kernel takes for socket storage: key = type 1, a 32-bit
    int; value = type 3, an array of 64-bit ints (Documentation/bpf/btf.rst)."""
    names = b"\0int\0u64\0"
    if value_size % 8:
        raise ValueError("socket storage is described as an array of u64")

    def kind(number: int) -> int:
        return number << 24

    types = struct.pack("=IIII", 1, kind(1), 4, 1 << 24 | 32)  # BTF_KIND_INT, signed
    types += struct.pack("=IIII", 5, kind(1), 8, 64)
    types += struct.pack("=IIIIII", 0, kind(3), 0, 2, 1, value_size // 8)  # BTF_KIND_ARRAY
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names))
    return header + types + names
