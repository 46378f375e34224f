"""Routing inside a pod that lets ztunnel speak to the application from the client's address.

Marked packets are delivered locally whatever their addresses are: the rule and the routes of
`agent/marked_packets.py`, `tcp_fwmark_accept`, so that the answers of an accepted connection carry
the mark too, and `fwmark_reflect`, so that a refusal (RST of a port without listener, which no
socket sends) does and ztunnel hears it. Both families; repeating it changes nothing.

Enrolment prepares all but the rules, which slow every route look-up of the pod down: the holder
adds them with the first socket that ztunnel wants for the application.
"""

from __future__ import annotations

import socket
from pathlib import Path

from agent.marked_packets import add_route, delete_route, delete_rule
from agent.netns import call_in_netns
from mesh.errors import KernelError

_SYSCTLS = tuple(
    Path("/proc/sys/net", name)
    for name in ("ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect")
)


def prepare_transparent(netns_fd: int) -> None:
    """Add routes and sysctls, which do nothing without the rules; raise `KernelError`."""
    call_in_netns(netns_fd, _prepare)


def undo_transparent(netns_fd: int) -> bool:
    """Remove them again, and the rules; False if there was nothing."""
    return call_in_netns(netns_fd, _undo)


def _prepare() -> None:
    for family in _families():
        add_route(family)
    _write_sysctls("1")


def _undo() -> bool:
    found = False
    for family in _families():
        found |= delete_rule(family)
        found |= delete_route(family)
    if found:
        _write_sysctls("0")
    return found


def _families() -> list[socket.AddressFamily]:
    """Those the namespace has: IPv6 can be switched off."""
    has_ipv6 = Path("/proc/sys/net/ipv6").is_dir()
    return [socket.AF_INET, *([socket.AF_INET6] if has_ipv6 else [])]


def _write_sysctls(value: str) -> None:
    """IPv6's is left out where the namespace has no IPv6."""
    for path in _SYSCTLS:
        if path.parent.is_dir():
            try:
                path.write_text(value, encoding="ascii")
            except OSError as error:
                raise KernelError(f"sysctl {path}", error.errno or 0) from error
