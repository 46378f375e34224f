"""What the holder's tests stand on."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent.holder.client import HolderClient
from agent.holder.launch import ensure_holder, stop_holder
from agent.netns import CLONE_NEWNET, call_in_netns, netns_cookie
from agent.paths import NodePaths
from tests.lab import eventually

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace that exists only as a descriptor."""

    fd: int

    @property
    def cookie(self) -> int:
        return netns_cookie(self.fd)

    def run(self, function: Callable[[], T]) -> T:
        return call_in_netns(self.fd, function)

    def command(self, *argv: str) -> None:
        """Run a program inside; the child starts in the calling thread's namespace."""
        self.run(lambda: subprocess.run(argv, check=True, capture_output=True, timeout=10))

    def connect(self, host: str, port: int) -> socket.socket:
        """A blocking client with a timeout of ten seconds."""
        return self.run(lambda: socket.create_connection((host, port), timeout=10))


@contextmanager
def make_namespace() -> Iterator[Namespace]:
    found: list[int] = []

    def leave() -> None:
        if _libc.unshare(CLONE_NEWNET) == 0:
            own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
            found.append(os.open(own, os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    fd = found[0]
    try:
        namespace = Namespace(fd)
        namespace.command("ip", "link", "set", "lo", "up")
        yield namespace
    finally:
        os.close(fd)


@dataclass(slots=True)
class Holder:
    """A running holder in the background."""

    paths: NodePaths
    pid: int
    grace_s: float

    def client(self) -> HolderClient:
        return HolderClient.connect(self.paths)

    def fds(self) -> int:
        """Open descriptors of the process."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss_kib(self) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        process = os.pidfd_open(self.pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            eventually(lambda: not _is_alive(self.pid), 30.0, "the holder is gone")
        finally:
            os.close(process)

    def restart(self) -> None:
        self.pid = ensure_holder(self.paths, grace_s=self.grace_s)


def _is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def make_holder(grace_s: float) -> Iterator[Holder]:
    paths = NodePaths(f"t-holder-{os.getpid()}-{secrets.token_hex(3)}")
    try:
        yield Holder(paths, ensure_holder(paths, grace_s=grace_s), grace_s)
    finally:
        stop_holder(paths)
        shutil.rmtree(paths.run_dir, ignore_errors=True)
