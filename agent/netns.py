"""Network namespaces: open one, run a function inside it, read its cookie. Standard library only.

setns(2) changes the calling *thread*; a function is therefore always run on a thread made for it,
which ends there and never comes back to the caller's namespace.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import TypeVar

from mesh.errors import KernelError

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
SO_NETNS_COOKIE = 71  # linux/asm-generic/socket.h, since 5.14

_libc = ctypes.CDLL(None, use_errno=True)


def open_netns(path: str) -> int:
    """Open a namespace file (`/run/netns/NAME`, `/proc/PID/ns/net`); the caller closes the fd.

    Raises `KernelError` if there is none.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"network namespace {path}", error.errno or 0) from error


def call_in_netns(netns_fd: int, function: Callable[[], T]) -> T:
    """Run `function` inside the namespace, wait, and return its result or raise its error.

    Sockets made in there stay in that namespace for life. Needs CAP_SYS_ADMIN.
    """
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            if _libc.setns(netns_fd, CLONE_NEWNET) != 0:
                raise KernelError("setns", ctypes.get_errno(), "Entering a namespace needs root.")
            result.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def socket_netns_cookie(sock: socket.socket) -> int:
    """The kernel's 64-bit id of the namespace a socket lives in; unique until the next boot."""
    raw = sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
    return int(struct.unpack("=Q", raw)[0])


def netns_cookie(netns_fd: int) -> int:
    """The cookie of a namespace."""

    def read() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            return socket_netns_cookie(probe)

    return call_in_netns(netns_fd, read)
