"""Start and stop a node's holder from the node process or the command line."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from agent.holder.client import HolderClient
from agent.holder.daemon import running_pid
from agent.holder.protocol import HolderLostError
from agent.paths import NodePaths
from mesh.errors import KernelError

START_TIMEOUT_S = 10.0


def ensure_holder(
    paths: NodePaths, *, cgroup: Path | None = None, grace_s: float | None = None
) -> int:
    """Start the holder in the background unless it runs; return its process id.

    Raises `KernelError` with the holder's own words if it cannot start.
    """
    try:
        return _ping(paths)
    except HolderLostError:
        _start(paths, cgroup, grace_s)
        return _ping(paths)


def _ping(paths: NodePaths) -> int:
    with HolderClient.connect(paths) as client:
        return client.ping()


def _start(paths: NodePaths, cgroup: Path | None, grace_s: float | None) -> None:
    command = [sys.executable, "-m", "agent.holder", "--node", paths.node, "--daemon"]
    if cgroup is not None:
        command += ["--cgroup", str(cgroup)]
    if grace_s is not None:
        command += ["--grace", str(grace_s)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise KernelError("holder", 0, "It did not start in time.") from error
    if done.returncode != 0:
        raise KernelError("holder", 0, done.stderr.strip())


def stop_holder(paths: NodePaths, timeout_s: float = 5.0) -> bool:
    """Stop the node's holder, which closes all listeners; False if none runs.

    SIGKILL if it has not ended after `timeout_s`.
    """
    pid = running_pid(paths)
    if pid is None:
        return False
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # Still the lock's owner, so the descriptor is the holder's and no later process's.
        if running_pid(paths) != pid:
            return False
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], timeout_s)[0]:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], timeout_s)
    except ProcessLookupError:
        return True
    finally:
        os.close(process)
    return True
