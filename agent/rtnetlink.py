"""Route netlink: ask the kernel for a change, or for a list, in the calling thread's namespace.

Plain netlink of the standard library. The library that speaks all of it takes as much memory as
the holder and an event loop per socket; what is needed here are five messages.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum

from mesh.errors import KernelError

# linux/netlink.h
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_CREATE_EXCL = 0x400 | 0x200
_INTERRUPTED = 0x10
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_CODE = struct.Struct("=i")
_ANSWER_BYTES = 64 * 1024
"""The kernel fills at most 32 KiB of a list at a time."""
_TRIES = 10
"""Of a list that changes while it is read."""


class Ask(IntEnum):
    """Message types of linux/rtnetlink.h."""

    NEW_ROUTE = 24
    DELETE_ROUTE = 25
    ADDRESSES = 22
    NEW_RULE = 32
    DELETE_RULE = 33


def attributes(pairs: Iterable[tuple[int, int]]) -> bytes:
    """32-bit attributes by number."""
    size = _ATTRIBUTE.size + 4
    return b"".join(_ATTRIBUTE.pack(size, kind) + struct.pack("=I", value) for kind, value in pairs)


def change(ask: Ask, body: bytes, what: str, *, harmless: frozenset[int]) -> bool:
    """Make or delete something; whether that changed anything. Raises `KernelError`.

    Args:
        body: the fixed part and the attributes.
        what: for the error.
        harmless: error numbers that mean "already so".
    """
    flags = _REQUEST | _ACK | (_CREATE_EXCL if ask in (Ask.NEW_ROUTE, Ask.NEW_RULE) else 0)
    try:
        with _socket() as netlink:
            netlink.send(_message(ask, flags, body))
            code = _acknowledged(netlink.recv(_ANSWER_BYTES))
    except OSError as error:
        raise KernelError(what, error.errno or 0) from error
    if code and code not in harmless:
        raise KernelError(what, code)
    return not code


def listed(ask: Ask, body: bytes, what: str) -> list[bytes]:
    """The bodies of all answers to a request for a list. Raises `KernelError`."""
    try:
        for _ in range(_TRIES):
            with _socket() as netlink:
                netlink.send(_message(ask, _REQUEST | _DUMP, body))
                found = _read_list(netlink)
            if found is not None:
                return found
    except OSError as error:
        raise KernelError(what, error.errno or 0) from error
    raise KernelError(what, errno.EINTR)


def attributes_of(body: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Number and value of each attribute behind the fixed part. Raises `ValueError`."""
    while offset + _ATTRIBUTE.size <= len(body):
        size, kind = _ATTRIBUTE.unpack_from(body, offset)
        if size < _ATTRIBUTE.size or offset + size > len(body):
            raise ValueError("a netlink attribute of a wrong length")
        yield kind, body[offset + _ATTRIBUTE.size : offset + size]
        offset += _aligned(size)


def _socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)


def _message(ask: Ask, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), ask, flags, 1, 0) + body


def _acknowledged(answer: bytes) -> int:
    """The error number of the kernel's acknowledgement; 0 if all is well."""
    if len(answer) < _HEADER.size + _CODE.size or _HEADER.unpack_from(answer)[1] != _ERROR:
        return errno.EPROTO
    code: int = _CODE.unpack_from(answer, _HEADER.size)[0]
    return -code


def _read_list(netlink: socket.socket) -> list[bytes] | None:
    """None if what is listed changed meanwhile."""
    found: list[bytes] = []
    is_whole = True
    while True:
        for kind, flags, body in _messages(netlink.recv(_ANSWER_BYTES)):
            is_whole &= not flags & _INTERRUPTED
            if kind == _DONE:
                return found if is_whole else None
            if kind == _ERROR:
                code = -_CODE.unpack_from(body)[0]
                raise OSError(code, os.strerror(code))
            found.append(body)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        size, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
        if size < _HEADER.size:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        yield kind, flags, data[offset + _HEADER.size : offset + size]
        offset += _aligned(size)


def _aligned(size: int) -> int:
    return (size + 3) & ~3
