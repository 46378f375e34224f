"""The sockets a pod needs. Every function here runs inside the pod's namespace.

Listeners and marks follow the capture programs: 15001 on loopback takes outbound connections that
`connect4/6` rewrote, 15006 plaintext that `sk_lookup` steered, 15008 HBONE.
"""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from pathlib import Path

from agent.holder.protocol import Family, ListenerName, SocketKind
from agent.holder.rules import MARK
from agent.netns import socket_netns_cookie
from mesh.errors import KernelError

OUTBOUND_PORT = 15001
PLAINTEXT_PORT = 15006
HBONE_PORT = 15008

INBOUND_MARK = MARK
"""The pod's rule routes answers to a borrowed source address back."""
OUTBOUND_MARK = 0x53A
"""Only says that ztunnel made the connection; no rule matches it."""

BACKLOG = 4096
"""The kernel's default somaxconn: what waits here while workers restart."""

KEEPALIVE_IDLE_S = 180
KEEPALIVE_INTERVAL_S = 180
KEEPALIVE_PROBES = 9

# linux/in.h, linux/in6.h: not in the socket module.
IP_FREEBIND = 15
IP_TRANSPARENT = 19
IP_BIND_ADDRESS_NO_PORT = 24
IPV6_TRANSPARENT = 75
SO_MARK = 36

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_LOOPBACK6_OFF = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")

PORTS = {
    ListenerName.OUTBOUND4: OUTBOUND_PORT,
    ListenerName.OUTBOUND6: OUTBOUND_PORT,
    ListenerName.PLAINTEXT: PLAINTEXT_PORT,
    ListenerName.HBONE: HBONE_PORT,
}


def open_listener(name: ListenerName) -> socket.socket | None:
    """Make one listener, non-blocking; None if it is for IPv6 and there is none.

    Raises `KernelError`: the port is taken by an application or by an earlier holder's sockets.
    """
    try:
        match name:
            case ListenerName.OUTBOUND4:
                return _listen(socket.AF_INET, "127.0.0.1", OUTBOUND_PORT)
            case ListenerName.OUTBOUND6:
                return _listen(socket.AF_INET6, "::1", OUTBOUND_PORT) if _has_ipv6() else None
            case ListenerName.PLAINTEXT | ListenerName.HBONE:
                return _listen_both(PORTS[name])
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        hint = "Another program in the pod uses the port, or adopt its listeners." if taken else ""
        raise KernelError(f"listener {name} on port {PORTS[name]}", error.errno or 0, hint) from (
            error
        )


def _has_ipv6() -> bool:
    """Whether ::1 exists; /proc/sys/net shows the calling thread's namespace."""
    try:
        return _LOOPBACK6_OFF.read_bytes().strip() == b"0"
    except FileNotFoundError:
        return False


def _listen_both(port: int) -> socket.socket:
    """Listen for both families on one socket, or for IPv4 where the kernel has no IPv6."""
    try:
        return _listen(socket.AF_INET6, "::", port)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
    return _listen(socket.AF_INET, "0.0.0.0", port)


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    with ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A pod's namespace can be enrolled before its loopback device is up.
        sock.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if host == "::1" else 0)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        undo.pop_all()
        return sock


def check_adopted(name: ListenerName, sock: socket.socket, cookie: int) -> None:
    """Raise `KernelError` unless `sock` is the listener `name` of the namespace `cookie`."""
    what = f"adopted listener {name}"
    try:
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            raise KernelError(what, 0, "It is not a listening TCP socket.")
        if socket_netns_cookie(sock) != cookie:
            raise KernelError(what, 0, "It belongs to another network namespace.")
        port = sock.getsockname()[1]
    except (OSError, IndexError) as error:
        raise KernelError(what, getattr(error, "errno", 0) or 0, "It is no TCP socket.") from error
    if port != PORTS[name]:
        raise KernelError(what, 0, f"It listens on port {port} instead of {PORTS[name]}.")


def make_sockets(family: Family, kind: SocketKind, count: int) -> list[socket.socket]:
    """Make `count` fresh non-blocking TCP sockets, ready for bind and connect by anybody.

    Raises OSError; then none is left open.
    """
    domain = socket.AF_INET6 if family is Family.V6 else socket.AF_INET
    options = _COMMON + (_MARKED if kind is SocketKind.OUTBOUND else _BORROWING[family])
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.socket(domain, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            made.append(sock)
            for level, option, value in options:
                sock.setsockopt(level, option, value)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


_COMMON = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
)
_MARKED = ((socket.SOL_SOCKET, SO_MARK, OUTBOUND_MARK),)
_BORROWED = (
    (socket.SOL_SOCKET, SO_MARK, INBOUND_MARK),
    (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
    # Port 0 is then chosen at connect by the whole 4-tuple, so one client address is good for
    # as many connections as there are targets, not for 28,000 in all (since 4.2).
    (socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1),
)
_BORROWING = {
    Family.V4: (*_BORROWED, (socket.SOL_IP, IP_TRANSPARENT, 1)),
    Family.V6: (*_BORROWED, (socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)),
}
"""Let whoever gets the socket bind it to an address that the namespace does not have."""
