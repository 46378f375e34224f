"""Says what takes long, on a terminal only, and only after a second."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SHOW_AFTER_S = 1.0
_FRAMES = "|/-\\"


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show `text` with a turning sign on standard error while the block runs."""
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_turn, args=(text, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _turn(text: str, done: threading.Event) -> None:
    if done.wait(SHOW_AFTER_S):
        return
    turn = 0
    while not done.wait(0.1):
        sys.stderr.write(f"\r{_FRAMES[turn % len(_FRAMES)]} {text} ")
        sys.stderr.flush()
        turn += 1
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()
