"""Plain socket work shared by the paths of a worker: original destination, reset, connect."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from agent.holder.protocol import Family, SocketKind
from mesh.errors import UpstreamError
from mesh.model.address import SocketAddress, canonical_ip, parse_ip
from mesh.model.workload import WorkloadUid

SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; answered by our own getsockopt hook
SOL_IPV6 = 41
CONNECT_TIMEOUT_S = 10.0
_LINGER_RESET = struct.pack("ii", 1, 0)


class NoHolderError(UpstreamError):
    """This worker gets no sockets any more; one that is started with a new holder does."""


class SocketSource(Protocol):
    """Fresh sockets made in a pod's network namespace."""

    async def get(self, uid: WorkloadUid, family: Family, kind: SocketKind) -> socket.socket:
        """A non-blocking TCP socket. Raises `UpstreamError` if the pod is gone, and
        `NoHolderError` if the holder is."""

    async def get_many(
        self, uid: WorkloadUid, family: Family, kind: SocketKind, count: int
    ) -> list[socket.socket]:
        """At least one and at most `count`, as many as can be had at once. Raises the same."""


def name_to_address(name: tuple[str, int] | tuple[str, int, int, int]) -> SocketAddress:
    """What `getpeername()` and friends return, v4-mapped addresses made plain."""
    return SocketAddress(parse_ip(name[0]), name[1])


def original_destination(sock: socket.socket) -> SocketAddress | None:
    """What the client dialled before it was redirected here; None if the kernel does not know."""
    try:
        if canonical_ip(parse_ip(sock.getsockname()[0])).version == 4:
            raw = sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
            port, packed = struct.unpack_from("!2xH4s", raw)
            return SocketAddress(IPv4Address(packed), port)
        raw = sock.getsockopt(SOL_IPV6, SO_ORIGINAL_DST, 28)
        port, packed = struct.unpack_from("!2xH4x16s", raw)
        return SocketAddress(canonical_ip(IPv6Address(packed)), port)
    except OSError:
        return None


def reset(sock: socket.socket) -> None:
    """Close with RST, so that the other end sees a failure and not an orderly end."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    except OSError:
        pass  # Already broken: closing is all that is left.
    finally:
        sock.close()


async def connect(sock: socket.socket, address: SocketAddress) -> None:
    """Connect within ten seconds; on any failure close the socket and raise `UpstreamError`."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await _connected(sock, address)
    except TimeoutError as error:
        sock.close()
        raise UpstreamError(f"{address} did not answer in {CONNECT_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        sock.close()
        raise UpstreamError(f"{address}: {error.strerror or error}") from error
    except BaseException:
        sock.close()
        raise


async def _connected(sock: socket.socket, address: SocketAddress) -> None:
    """As the loop's `sock_connect`, which sends every address through a thread to resolve it."""
    number = sock.connect_ex((str(address.ip), address.port))
    if number == errno.EINPROGRESS:
        loop = asyncio.get_running_loop()
        writable = asyncio.Event()
        loop.add_writer(sock, writable.set)
        try:
            await writable.wait()
        finally:
            loop.remove_writer(sock)
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))
