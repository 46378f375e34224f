"""Open direct connections: list them, and end one.

The kernel keeps a list of connections that it let go directly, so that a policy change can reach
them. Ending uses SOCK_DESTROY of sock_diag (kernel option INET_DIAG_DESTROY, since 4.9): the
application gets ECONNABORTED, its peer ECONNRESET.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass

from agent.capture.pins import PinnedMaps
from agent.netns import call_in_netns
from bpf.layout import Addr, Flow, Tuple
from mesh.errors import KernelError
from mesh.model.address import SocketAddress

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SOCK_DESTROY = 21
_TCP_LISTEN = 10
_STATE_OFFSET, _COOKIE_OFFSET, _UID_OFFSET = 16 + 1, 16 + 44, 16 + 64
"""Behind the netlink header, in `struct inet_diag_msg` (linux/inet_diag.h)."""
_NLMSG_ERROR = 2
_NLM_F_REQUEST, _NLM_F_ACK = 1, 4
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF_FFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFlow:
    """One open direct connection, seen from its source.

    `started_ns` is CLOCK_MONOTONIC; workloads and classes are numbers (0 = unknown).
    """

    socket_cookie: int
    netns_cookie: int
    src: SocketAddress
    dst: SocketAddress
    src_workload: int
    dst_workload: int
    src_class: int
    dst_class: int
    started_ns: int


def decode_flow(key: bytes, raw: bytes) -> OpenFlow:
    ends, flow = Tuple.from_buffer_copy(key), Flow.from_buffer_copy(raw)
    return OpenFlow(
        socket_cookie=flow.socket_cookie,
        netns_cookie=flow.netns_cookie,
        src=SocketAddress(ends.src.ip, ends.src_port),
        dst=SocketAddress(ends.dst.ip, ends.dst_port),
        src_workload=flow.src_workload,
        dst_workload=flow.dst_workload,
        src_class=flow.src_class,
        dst_class=flow.dst_class,
        started_ns=flow.start_ns,
    )


def list_flows(maps: PinnedMaps) -> list[OpenFlow]:
    """All open direct connections of the node, oldest first."""
    flows = [decode_flow(key, raw) for key, raw in maps["mn_flow"].items()]
    return sorted(flows, key=lambda flow: flow.started_ns)


def destroy_flow(flow: OpenFlow, src_netns_fd: int | None, dst_netns_fd: int | None = None) -> bool:
    """End a connection from both ends, as far as their namespaces are given.

    Returns whether an end was found. The source's end is named by its cookie too, so a connection
    that took its ports meanwhile is safe. Raises `KernelError` if the kernel refuses.
    """
    found = False
    if src_netns_fd is not None:
        found |= call_in_netns(
            src_netns_fd, lambda: _destroy(flow.src, flow.dst, flow.socket_cookie)
        )
    if dst_netns_fd is not None:
        found |= call_in_netns(dst_netns_fd, lambda: _destroy_found(flow.dst, flow.src))
    return found


def owner_of(local: SocketAddress, remote: SocketAddress) -> int | None:
    """The uid that made the socket of an open connection of this network namespace; None if there
    is none. What its process has closed counts as gone: the kernel would call its owner root."""
    answer = _ask(_SOCK_DIAG_BY_FAMILY, local, remote, _NO_COOKIE)
    _, kind = struct.unpack_from("=IH", answer)
    if kind == _NLMSG_ERROR:
        return None
    (state,) = struct.unpack_from("=B", answer, _STATE_OFFSET)
    uid, inode = struct.unpack_from("=II", answer, _UID_OFFSET)
    return int(uid) if inode and state != _TCP_LISTEN else None


def mark_cut(maps: PinnedMaps, flow: OpenFlow) -> None:
    """Say that this connection is about to be ended: its end is then reported with the reason, and
    not only counted."""
    key = bytes(Tuple(Addr.of(flow.src.ip), Addr.of(flow.dst.ip), flow.src.port, flow.dst.port))
    raw = maps["mn_flow"].lookup(key)
    if raw is None:
        return
    marked = Flow.from_buffer_copy(raw)
    # Another connection may have taken its ports meanwhile.
    if marked.socket_cookie == flow.socket_cookie:
        marked.cut = 1
        maps["mn_flow"].replace(key, bytes(marked))


def _destroy_found(local: SocketAddress, remote: SocketAddress) -> bool:
    """End the connection's socket, found by its addresses.

    Where the connection has gone (the other end's reset was quicker), the kernel's lookup goes on
    to listening sockets, those that `sk_lookup` chooses included: without a look at the state,
    SOCK_DESTROY would end the pod's own listener.
    """
    answer = _ask(_SOCK_DIAG_BY_FAMILY, local, remote, _NO_COOKIE)
    _, kind = struct.unpack_from("=IH", answer)
    if kind == _NLMSG_ERROR:
        return False
    (state,) = struct.unpack_from("=B", answer, _STATE_OFFSET)
    low, high = struct.unpack_from("=II", answer, _COOKIE_OFFSET)
    return state != _TCP_LISTEN and _destroy(local, remote, high << 32 | low)


def _destroy(local: SocketAddress, remote: SocketAddress, cookie: int) -> bool:
    answer = _ask(_SOCK_DESTROY, local, remote, cookie)
    _, kind = struct.unpack_from("=IH", answer)
    if kind != _NLMSG_ERROR:
        raise KernelError("SOCK_DESTROY", errno.EPROTO)
    (result,) = struct.unpack_from("=i", answer, 16)
    # ESTALE: the addresses belong to another socket by now.
    if result in (0, -errno.ENOENT, -errno.ESTALE):
        return bool(result == 0)
    hint = "The kernel lacks CONFIG_INET_DIAG_DESTROY." if result == -errno.EOPNOTSUPP else ""
    raise KernelError("SOCK_DESTROY", -int(result), hint)


def _ask(kind: int, local: SocketAddress, remote: SocketAddress, cookie: int) -> bytes:
    """One sock_diag request about one socket, and the kernel's answer."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(5)
        netlink.send(_request(kind, local, remote, cookie))
        return netlink.recv(8192)


def _request(kind: int, local: SocketAddress, remote: SocketAddress, cookie: int) -> bytes:
    """`struct nlmsghdr` and `struct inet_diag_req_v2` (linux/inet_diag.h)."""
    family = socket.AF_INET if local.ip.version == 4 else socket.AF_INET6
    body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES)
    body += struct.pack("!HH16s16s", local.port, remote.port, local.ip.packed, remote.ip.packed)
    body += struct.pack("=III", 0, cookie & 0xFFFFFFFF, cookie >> 32)
    size = 16 + len(body)
    flags = _NLM_F_REQUEST | (_NLM_F_ACK if kind == _SOCK_DESTROY else 0)
    header = struct.pack("=IHHII", size, kind, flags, 1, 0)
    return header + body
