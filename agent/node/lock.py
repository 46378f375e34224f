"""One agent per node: an flock on the lock file, released by the kernel when the process ends."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from agent.paths import NodePaths
from mesh.errors import ConfigError

log = logging.getLogger(__name__)


@contextmanager
def node_lock(paths: NodePaths, *, wait: bool = False) -> Iterator[None]:
    """Hold the node's lock; raise `ConfigError` naming the process that has it.

    With `wait` stand by until that process has ended.
    """
    paths.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(paths.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            if wait:
                log.info("standing by until the agent with pid %s has ended", holder)
                fcntl.flock(fd, fcntl.LOCK_EX)
            else:
                raise ConfigError(
                    f"an agent for node {paths.node} is running already (pid {holder}); "
                    "stop it, or give this one another --node"
                ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
