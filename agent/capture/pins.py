"""The pinned maps of a node: make them, reuse them, refuse those of another layout."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from agent.capture import syscalls
from agent.capture.table import Table, create_table
from agent.paths import SCHEMA_VERSION, NodePaths
from bpf.layout import MAPS, MapSpec, MapType, Meta
from mesh.errors import KernelError

UNINSTALL_HINT = "Another version of meshnode left it: run `meshnode uninstall` first."


class OtherSchemaError(KernelError):
    """The kernel holds pins of another version of meshnode."""


def maps_dir(paths: NodePaths) -> Path:
    return paths.pin_dir / "maps"


def progs_dir(paths: NodePaths) -> Path:
    return paths.pin_dir / "progs"


def links_dir(paths: NodePaths) -> Path:
    return paths.pin_dir / "links"


def refuse_other_schemas(paths: NodePaths) -> None:
    """Raise `OtherSchemaError` if pins of another layout are there: both would act on the same
    pods."""
    if not paths.pin_root.is_dir():
        return
    for entry in sorted(paths.pin_root.iterdir()):
        if entry != paths.pin_dir:
            raise OtherSchemaError(f"pins of another schema at {entry}", hint=UNINSTALL_HINT)


def make_directories(paths: NodePaths) -> None:
    """Make `maps/`, `progs/` and `links/`, for root only."""
    for directory in (maps_dir(paths), progs_dir(paths), links_dir(paths)):
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise KernelError(
                f"pin directory {directory}", error.errno or 0, syscalls.ROOT_HINT
            ) from error


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Only one loader at a time; the lock goes away with its holder."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def mismatch(spec: MapSpec, fd: int) -> str:
    """How an open map differs from what the programs expect; empty if it does not."""
    info = syscalls.map_info(fd)
    expected = (spec.type, spec.key_size, spec.value_size, spec.max_entries)
    actual = (info.type, info.key_size, info.value_size, info.max_entries)
    if expected == actual:
        return ""
    return f"type, key, value, entries are {actual}, expected {tuple(map(int, expected))}"


def open_or_create(spec: MapSpec, directory: Path) -> Table:
    """The pinned map, made if it is missing; raise `KernelError` if it has another layout."""
    path = directory / spec.name
    try:
        table = Table.open(spec, directory)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        table = create_table(spec)
        try:
            syscalls.obj_pin(table.fd, str(path))
        except KernelError:
            table.close()
            raise
        return table
    if difference := mismatch(spec, table.fd):
        table.close()
        raise KernelError(f"map {path}: {difference}", hint=UNINSTALL_HINT)
    return table


class PinnedMaps:
    """All maps of one node, open. Close it, or use it as a context manager."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = tables

    def __getitem__(self, name: str) -> Table:
        return self._tables[name]

    def __iter__(self) -> Iterator[Table]:
        return iter(self._tables.values())

    def close(self) -> None:
        for table in self._tables.values():
            table.close()

    def __enter__(self) -> PinnedMaps:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_maps(paths: NodePaths, *, create: bool = False) -> PinnedMaps:
    """Open every map of the node's schema; `create` makes the missing ones.

    Raises `KernelError`: not loaded (ENOENT), another layout, no permission.
    """
    tables: dict[str, Table] = {}
    with ExitStack() as undo:
        for spec in MAPS:
            if create:
                table = open_or_create(spec, maps_dir(paths))
            else:
                table = _open_checked(spec, maps_dir(paths))
            tables[spec.name] = undo.enter_context(table)
        undo.pop_all()
    return PinnedMaps(tables)


def _open_checked(spec: MapSpec, directory: Path) -> Table:
    table = Table.open(spec, directory)
    if difference := mismatch(spec, table.fd):
        table.close()
        raise KernelError(f"map {directory / spec.name}: {difference}", hint=UNINSTALL_HINT)
    return table


def open_map(paths: NodePaths, name: str) -> Table:
    """Open one pinned map and check its layout."""
    return _open_checked(next(spec for spec in MAPS if spec.name == name), maps_dir(paths))


def read_hash(maps: PinnedMaps) -> bytes:
    """Hash of the sources that the pinned programs were made of; zeros if they are incomplete."""
    raw = maps["mn_meta"].lookup(bytes(4)) or bytes(ctypes.sizeof(Meta))
    meta = Meta.from_buffer_copy(raw)
    return bytes(meta.source_hash) if meta.schema_version == SCHEMA_VERSION else bytes(32)


def write_hash(maps: PinnedMaps, digest: bytes) -> None:
    """Say that everything of these sources is in place; written last."""
    meta = Meta(schema_version=SCHEMA_VERSION)
    meta.source_hash[:] = digest
    maps["mn_meta"].update(bytes(4), bytes(meta))


def is_countable(spec: MapSpec) -> bool:
    """Whether entries of a map can be walked."""
    return spec.type not in (MapType.RINGBUF, MapType.SK_STORAGE)
