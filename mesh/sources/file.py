"""A directory of YAML and JSON as the source of all objects.

Reads `*.yaml`, `*.yml` and `*.json` of the directory and of its immediate subdirectories, in
order of their paths; hidden names are skipped, symbolic links and special files refused. One
bad file or object never takes down the rest (see `file_state`). A deleted file takes its objects
with it; a directory that vanishes takes nothing, because that is a mistake more often than a wish.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from watchfiles import awatch

from mesh.errors import ConfigError
from mesh.model.snapshot import Problem
from mesh.sources.file_state import FileState, ignored, read_text, unreadable
from mesh.sources.objects import ObjectSet

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_FILES = 10_000
DEBOUNCE_MS = 100
"""Longest wait for a burst of changes to end; an editor's save is over in a few."""
STEP_MS = 100
RESCAN_MS = 2000
"""Signatures are compared this often even without an event: covers what happened between the
first read and the watch, and a directory that was moved away and came back."""

SETTLED_NS = 50_000_000

Signature = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Read:
    """A file as it was read last. `signature` None = try again next time."""

    signature: Signature | None
    state: FileState


class FileSource:
    """Watches one directory. One user at a time."""

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._files: Mapping[str, _Read] = {}

    def load_once(self) -> ObjectSet:
        """Read everything now; raise `ConfigError` if the directory cannot be listed."""
        try:
            return self._scan()
        except OSError as error:
            raise ConfigError(
                f"{self._directory}: {error.strerror}; --source file:DIR needs a directory"
            ) from error

    async def watch(self) -> AsyncGenerator[ObjectSet, None]:
        """Yield everything, then everything again after each change, until cancelled.

        Raises `ConfigError` if the directory is missing at the start.
        """
        current = await asyncio.to_thread(self.load_once)
        yield current
        while True:
            async with aclosing(self._ticks()) as ticks:
                async for _ in ticks:
                    found = await asyncio.to_thread(self._rescan)
                    if found != current:
                        current = found
                        yield current

    async def _ticks(self) -> AsyncGenerator[None, None]:
        """Yield on every change, and every `RESCAN_MS` without one."""
        identity = _identity(self._directory)
        if identity is None:
            await asyncio.sleep(RESCAN_MS / 1000)
            yield
            return
        changes = awatch(
            self._directory,
            watch_filter=None,
            debounce=DEBOUNCE_MS,
            step=STEP_MS,
            rust_timeout=RESCAN_MS,
            yield_on_timeout=True,
        )
        async with aclosing(changes):
            async for _ in changes:
                yield
                if _identity(self._directory) != identity:
                    return  # The watch follows the old directory, wherever it is now.

    def _rescan(self) -> ObjectSet:
        try:
            return self._scan()
        except OSError as error:
            message = f"{error.strerror}: the last good state of all its files stays in force"
            gone = Problem(where=str(self._directory), subject="", message=message)
            return self._collect(gone)

    def _scan(self) -> ObjectSet:
        names = sorted(_list_files(self._directory))
        excess = names[MAX_FILES:]
        self._files = {name: self._read(name) for name in names[:MAX_FILES]}
        if not excess:
            return self._collect()
        message = f"more than {MAX_FILES} files: {excess[0]} and what follows are not read"
        return self._collect(Problem(where=str(self._directory), subject="", message=message))

    def _collect(self, *problems: Problem) -> ObjectSet:
        states = [read.state for read in self._files.values()]
        return ObjectSet(
            objects=tuple(item for state in states for item in state.objects),
            problems=(*problems, *(item for state in states for item in state.problems)),
        )

    def _read(self, name: str) -> _Read:
        path = str(self._directory / name)
        before = self._files.get(name, _Read(None, FileState()))
        try:
            status = os.lstat(path)
            if _signature(status) == before.signature:
                return before
            if stat.S_ISLNK(status.st_mode):
                return _Read(_signature(status), ignored(path, "symbolic links are not followed"))
            if not stat.S_ISREG(status.st_mode):
                return _Read(_signature(status), ignored(path, "not a regular file"))
            return _read_file(path, before.state)
        except OSError as error:
            state = unreadable(path, f"cannot be read: {error.strerror}", before.state)
            return _Read(None, state)


def _read_file(path: str, before: FileState) -> _Read:
    # The file may have been swapped since it was looked at: no link is followed, and opening a
    # FIFO does not wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return _Read(None, ignored(path, "not a regular file"))
        data = file.read(MAX_FILE_BYTES + 1)
    # A file written again within one tick of the kernel's clock looks unchanged: read it again.
    settled = time.time_ns() - status.st_mtime_ns > SETTLED_NS
    signature = _signature(status) if settled else None
    if len(data) > MAX_FILE_BYTES:
        return _Read(signature, unreadable(path, _TOO_LARGE, before))
    return _Read(signature, read_text(path, data, before))


_TOO_LARGE = f"larger than {MAX_FILE_BYTES // 1024 // 1024} MiB"


def _signature(status: os.stat_result) -> Signature:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        status = directory.stat()
    except OSError:
        return None  # Missing for now; the scan reports it.
    return status.st_dev, status.st_ino


def _list_files(directory: Path) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from (f"{entry.name}/{name}" for name in _list_folder(entry.path))
            elif entry.name.endswith(SUFFIXES):
                yield entry.name


def _list_folder(path: str) -> Iterator[str]:
    with os.scandir(path) as entries:
        for entry in entries:
            hidden = entry.name.startswith(".")
            if not hidden and entry.name.endswith(SUFFIXES) and not entry.is_dir():
                yield entry.name
