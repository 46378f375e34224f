"""The holder as a process: its lock, control socket, cgroup, limits, and going to the background.

All of it happens before the first listener exists: accepted sockets carry the cgroup of their
listener's creator, which is where the agent attaches its getsockopt hook.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.holder.wire import short_address
from agent.paths import NodePaths
from mesh.errors import ConfigError, KernelError

_LOCK_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_FLOCK = "hhqqi0q"
"""struct flock of the 64-bit kernels: type, whence, start, len, pid."""


def prepare_run_dir(paths: NodePaths) -> None:
    """Make the node's run directory, mode 0700. Raises `ConfigError` if somebody else's."""
    paths.run_dir.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        paths.run_dir.mkdir(mode=0o700)
    except FileExistsError:
        found = paths.run_dir.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise ConfigError(f"{paths.run_dir} is not a directory of our own; remove it") from None
        paths.run_dir.chmod(0o700)


@contextmanager
def holder_lock(paths: NodePaths) -> Iterator[None]:
    """Be the only holder of this node.

    Raises `ConfigError` if another holder runs.
    """
    fd = _lock(paths)
    try:
        yield
    finally:
        paths.holder_lock.unlink(missing_ok=True)
        os.close(fd)


def _lock(paths: NodePaths) -> int:
    while True:
        fd = os.open(paths.holder_lock, _LOCK_FLAGS | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(fd)
            raise ConfigError(f"a holder of node {paths.node} is already running") from None
        # The one before us may have removed the file between our open and our lock.
        if _is_same_file(fd, paths.holder_lock):
            return fd
        os.close(fd)


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def running_pid(paths: NodePaths) -> int | None:
    """Process id of the node's holder, or None if none runs. Asks for the lock, never takes it."""
    try:
        fd = os.open(paths.holder_lock, _LOCK_FLAGS)
    except FileNotFoundError:
        return None
    try:
        query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, query))
    finally:
        os.close(fd)
    return None if kind == fcntl.F_UNLCK else int(pid)


@contextmanager
def control_socket(paths: NodePaths) -> Iterator[socket.socket]:
    """The listening control socket, mode 0600; the path is gone afterwards. Needs the lock."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        paths.holder_socket.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            with short_address(paths.holder_socket) as address:
                control.bind(address)
        finally:
            os.umask(before)
        try:
            control.listen(64)
            yield control
        finally:
            paths.holder_socket.unlink(missing_ok=True)


def join_cgroup(directory: Path) -> None:
    """Move this process into a cgroup v2 directory, made if missing. Raises `KernelError`."""
    try:
        directory.mkdir(mode=0o755, exist_ok=True)
        (directory / "cgroup.procs").write_text("0")
    except OSError as error:
        raise KernelError(
            f"cgroup {directory}", error.errno or 0, "Give a directory of a cgroup v2 mount."
        ) from error


def raise_file_limit() -> None:
    """Allow as many descriptors as the hard limit: six per pod, and those on their way."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def stop_signals() -> Iterator[int]:
    """A descriptor that becomes readable at SIGTERM or SIGINT. Main thread only."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    handlers = {
        number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)
    }
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(writer)
        os.close(reader)


class Background:
    """The way of a daemon to report to the command that started it.

    `detach()` returns twice: in the daemon, and never in the command, which waits for the report
    and exits 0, or prints the failure and exits 1.
    """

    def __init__(self, report_fd: int) -> None:
        self._report_fd: int | None = report_fd

    @classmethod
    def detach(cls, log_file: Path) -> Background:
        """Fork into a session of our own; standard output and error go to `log_file`."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        if os.fork():
            os.close(writer)
            _exit_with_report(reader)
        os.close(reader)
        os.setsid()
        if os.fork():
            os._exit(0)  # not a session leader any more: can never get a terminal
        os.chdir("/")
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.close(null)
        os.close(log)
        return cls(writer)

    def ready(self) -> None:
        """Let the starting command exit with success."""
        self._report(b"\0")

    def failed(self, message: str) -> None:
        """Let the starting command, if it still waits, print `message` and exit 1."""
        self._report(message.encode()[:4000])

    def _report(self, report: bytes) -> None:
        if self._report_fd is not None:
            os.write(self._report_fd, report)
            os.close(self._report_fd)
            self._report_fd = None


def _exit_with_report(reader: int) -> None:
    report = b""
    while chunk := os.read(reader, 4096):
        report += chunk
    if report == b"\0":
        os._exit(0)
    os.write(2, b"meshnode holder: " + (report or b"ended before it was ready") + b"\n")
    os._exit(1)
