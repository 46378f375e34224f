"""Gives memory back that only the start needed."""

from __future__ import annotations

import ctypes
import logging

log = logging.getLogger(__name__)


def give_back_memory() -> None:
    """Let the C library return what is free: after the first lists of a cluster of 100,000 pods
    that is 20 MB. Does nothing with a library that cannot (musl)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None and trim(0):
        log.debug("memory was given back to the system")
