"""Packets with descriptors over a SOCK_SEQPACKET unix socket; finding that socket by its path."""

from __future__ import annotations

import os
import socket
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.holder.protocol import MAX_FDS

MSG_CMSG_CLOEXEC = 0x40000000
"""linux/socket.h: received descriptors are close-on-exec from the start."""

_FD_BYTES = array("i").itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One received packet. Whoever takes a descriptor out of `fds` owns it.

    Attributes:
        truncated: bytes or descriptors did not fit; the kernel dropped the excess.
    """

    data: bytes
    fds: list[int] = field(default_factory=list)
    truncated: bool = False

    def close(self) -> None:
        """Close the descriptors nobody took."""
        while self.fds:
            os.close(self.fds.pop())


def send_packet(channel: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send one packet whole. Raises OSError: `BlockingIOError` if the buffer is full."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    channel.sendmsg([data], rights, socket.MSG_NOSIGNAL)


def receive_packet(channel: socket.socket, max_bytes: int) -> Packet | None:
    """Receive one packet; None at the end of the channel. Raises OSError."""
    room = socket.CMSG_SPACE(MAX_FDS * _FD_BYTES)
    data, ancillary, flags, _ = channel.recvmsg(max_bytes, room, MSG_CMSG_CLOEXEC)
    fds = array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) - len(payload) % _FD_BYTES])
    if not data and not fds:
        return None
    truncated = bool(flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC))
    return Packet(data=data, fds=fds.tolist(), truncated=truncated)


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """An address of the unix socket `path` that fits sun_path (107 bytes) however long it is.

    Node names may have 253 characters. Raises OSError if the directory is missing.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def peer_uid(channel: socket.socket) -> int:
    """User id of the process that connected (SO_PEERCRED)."""
    raw = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("=iII"))
    _, uid, _ = struct.unpack("=iII", raw)
    return int(uid)
