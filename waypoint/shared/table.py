"""Counts and buckets that all workers of a waypoint share.

The supervisor makes the memory (`SharedMemory.create`) and hands its descriptor to every worker,
which opens it under its own number (`SharedTable`). Names become keys under a secret of this
waypoint, so that no client can choose values of a header that fall together.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from fcntl import F_ADD_SEALS
from fcntl import fcntl as control
from hashlib import blake2b
from weakref import WeakValueDictionary, finalize

from mesh.errors import ConfigError
from mesh.resilience.sharing import Taken
from waypoint.shared._shared import ffi, lib

# linux/fcntl.h: no worker may change the size under the others' feet.
_F_SEAL_SHRINK, _F_SEAL_GROW, _F_SEAL_SEAL = 2, 4, 1
MAX_WORKERS = 64
_MOST_NS = 1 << 61
FORCED = 1 << 62
"""A limit that is never reached."""


class SharedMemory:
    """The memory itself, as the supervisor holds it. Whoever makes it closes it."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, size)
        self._base = ffi.from_buffer(self._map)

    @classmethod
    def create(cls, workers: int) -> SharedMemory:
        """Memory for so many workers. Raises `OSError`."""
        size = lib.shared_bytes(workers)
        descriptor = os.memfd_create("meshnode-limits", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size)
            control(descriptor, F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)
            made = cls(descriptor, size)
        except OSError:
            os.close(descriptor)
            raise
        lib.shared_init(made._base, workers, os.urandom(16))
        return made

    def forget(self, worker: int) -> int:
        """A worker has ended: what it counted is free again. How many counts it held."""
        return int(lib.shared_forget(self._base, worker))

    def close(self) -> None:
        """Unmap it here; workers keep theirs. Idempotent."""
        if self.descriptor >= 0:
            ffi.release(self._base)
            self._map.close()
            os.close(self.descriptor)
            self.descriptor = -1


class SharedCount:
    """`mesh.resilience.sharing.Count` of one worker."""

    __slots__ = ("__weakref__", "_base", "_place", "_worker")

    def __init__(self, base: object, place: int, worker: int) -> None:
        self._base = base
        self._place = place
        self._worker = worker
        finalize(self, lib.shared_drop, base, place, worker).atexit = False

    def add(self, most: int) -> bool:
        return bool(lib.shared_add(self._base, self._place, self._worker, most))

    def force(self) -> None:
        lib.shared_add(self._base, self._place, self._worker, FORCED)

    def sub(self, many: int = 1) -> None:
        lib.shared_sub(self._base, self._place, self._worker, many)

    def total(self) -> int:
        return int(lib.shared_sum(self._base, self._place))


class SharedTable:
    """The memory as one worker sees it: `mesh.resilience.sharing.Sharing`.

    Args:
        descriptor: of the memory; stays the caller's. Raises `ConfigError` for any other memory.
    """

    def __init__(self, descriptor: int, worker: int) -> None:
        size = os.fstat(descriptor).st_size
        self._map = mmap.mmap(descriptor, size)
        self._base = ffi.from_buffer(self._map)
        self._worker = worker
        if not 0 <= worker < lib.shared_workers(self._base, size):
            raise ConfigError(f"the memory of shared limits has no place for worker {worker}")
        self._secret = ffi.buffer(lib.shared_secret(self._base), 16)[:]
        self._counts: WeakValueDictionary[str, SharedCount] = WeakValueDictionary()

    def key(self, name: str) -> int:
        """The key of a name; never 0."""
        digest = blake2b(name.encode(errors="surrogatepass"), digest_size=8, key=self._secret)
        return int.from_bytes(digest.digest()) or 1

    def count(self, name: str) -> SharedCount | None:
        """The count of a name; None if there is no place left."""
        found = self._counts.get(name)
        if found is None:
            place = lib.shared_find(self._base, self.key(name), self._worker)
            if place < 0:
                return None
            found = self._counts[name] = SharedCount(self._base, place, self._worker)
        return found

    def bucket(self, rate: float, burst: float) -> Callable[[int, float], Taken]:
        """How tokens are taken of buckets of such a kind: by key, at an instant."""
        cost = max(1, round(1e9 / rate))
        depth = min(_MOST_NS, round(burst * cost))
        base, take = self._base, lib.shared_take

        def taken(key: int, now: float) -> Taken:
            left = take(base, key, cost, depth, int(now * 1e9))
            if left < 0:
                return False, 0, -left * 1e-9
            return True, left // cost, (0.0 if left >= cost else (cost - left) * 1e-9)

        return taken

    def pacer(self, name: str, bytes_per_s: int) -> Callable[[int, float], float]:
        """How far ahead of the clock a number of bytes takes a shared pace, in seconds."""
        key, each = self.key(name), 1e9 / bytes_per_s
        base, charge = self._base, lib.shared_charge
        return lambda size, now: charge(base, key, int(size * each), int(now * 1e9)) * 1e-9
