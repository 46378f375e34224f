"""Whether limits are shared: with several workers, where the compiled part is there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mesh.resilience.sharing import Sharing

try:
    from waypoint.shared.table import MAX_WORKERS, SharedMemory, SharedTable

    _IS_BUILT = True
except ImportError:  # it was not compiled here
    _IS_BUILT = False
    if not TYPE_CHECKING:
        SharedMemory = None

log = logging.getLogger(__name__)

__all__ = ["SharedMemory", "new_memory", "open_sharing"]


def new_memory(workers: int) -> SharedMemory | None:
    """Memory for the workers of a waypoint; None where each limits alone, to its part."""
    if workers < 2:
        return None
    if not _IS_BUILT or workers > MAX_WORKERS:
        log.warning("limits are divided by the number of workers: they cannot be shared here")
        return None
    try:
        return SharedMemory.create(workers)
    except OSError as error:
        log.warning("limits are divided by the number of workers: %s", error)
        return None


def open_sharing(descriptor: int | None, worker: int) -> Sharing | None:
    """The memory that the supervisor handed to a worker, if it did."""
    return None if descriptor is None else SharedTable(descriptor, worker)
