"""Private files that survive a crash: strict permissions, atomic replacement, locks.

Every failure is a `ConfigError` that names the file and says what to do.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mesh.errors import ConfigError

DIR_MODE = 0o700
FILE_MODE = 0o600
MAX_FILE_BYTES = 4 << 20

FileVersion = tuple[int, int, int]
"""Inode, size and modification time in ns: differs after every replacement."""


def check_private_dir(path: Path) -> None:
    """Refuse a directory that others can enter or that belongs to somebody else."""
    try:
        status = path.lstat()
    except OSError as error:
        hint = "Make the CA's state first: meshnode ca init --ca DIR"
        raise ConfigError(f"{path}: {error.strerror}. {hint}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{path} is not a directory (a symbolic link is not accepted either)")
    _check_owner(path, status, DIR_MODE)


def make_private_dir(path: Path) -> None:
    """Create a directory of mode 0700, or accept an existing private one."""
    try:
        path.mkdir(mode=DIR_MODE)
        path.chmod(DIR_MODE)  # Whatever the umask says.
    except FileExistsError:
        check_private_dir(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be created: {error.strerror}") from error


def read_private(path: Path) -> tuple[bytes, FileVersion]:
    """A file's bytes and version; refuses links, open permissions and foreign owners."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path} is not a regular file")
        _check_owner(path, status, FILE_MODE)
        if status.st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path} has {status.st_size} bytes, the limit is {MAX_FILE_BYTES}")
        return file.read(MAX_FILE_BYTES), _version(status)


def file_version(path: Path) -> FileVersion:
    """The version of a file as it is now."""
    try:
        return _version(path.lstat())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def replace_private(path: Path, content: bytes) -> None:
    """Replace a file so that a crash leaves the old or the new one, whole.

    The caller holds the directory's lock: the temporary file has a fixed name, so that one left
    by a crash is used again instead of piling up.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, FILE_MODE)
        with open(fd, "wb") as file:
            os.fchmod(fd, FILE_MODE)
            file.write(content)
            file.flush()
            os.fsync(fd)
        temporary.replace(path)
        _sync_dir(path.parent)
    except OSError as error:
        with suppress(OSError):  # The error that matters is the first one.
            temporary.unlink()
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def locked(path: Path, *, wait: bool, busy: str) -> Iterator[None]:
    """Hold an exclusive lock file; the kernel lets go of it when the process dies.

    Args:
        wait: wait for the holder; else raise `ConfigError` with the text `busy`.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, FILE_MODE)
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise ConfigError(busy) from error
        yield
    finally:
        os.close(fd)


def _check_owner(path: Path, status: os.stat_result, mode: int) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"{path} belongs to user id {status.st_uid}, this process runs as {os.geteuid()}. "
            f"If its content is yours, run: chown {os.geteuid()} {path}"
        )
    if status.st_mode & 0o077:
        raise ConfigError(
            f"{path} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}): its keys "
            f"may be known to them. If not, run: chmod {mode:04o} {path}; if so, start a new CA"
        )


def _version(status: os.stat_result) -> FileVersion:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _sync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
