"""Routing inside a pod that lets ztunnel speak to the application from the client's address.

Marked packets are delivered locally whatever their addresses are: `ip rule fwmark 0x539 lookup
100`, a local default route on lo in table 100, `tcp_fwmark_accept`, so that the answers of an
accepted connection carry the mark too, and `fwmark_reflect`, so that a refusal (RST of a port
without listener, which no socket sends) does and ztunnel hears it. Both families; repeating it
changes nothing.

Enrolment prepares all but the rules, which slow every route look-up of the pod down: the holder
adds them with the first socket that ztunnel wants for the application (`agent/holder/rules.py`).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from agent.holder.rules import MARK, PRIORITY, TABLE
from agent.netns import call_in_netns
from mesh.errors import KernelError

_SYSCTLS = tuple(
    Path("/proc/sys/net", name)
    for name in ("ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect")
)
_FAMILIES = ((socket.AF_INET, "0.0.0.0/0"), (socket.AF_INET6, "::/0"))
_PRESENT = frozenset({errno.EEXIST})
_ABSENT = frozenset({errno.ENOENT, errno.ESRCH})
_RTN_LOCAL = 2
_RT_SCOPE_HOST = 254


def prepare_transparent(netns_fd: int) -> None:
    """Add routes and sysctls, which do nothing without the rules; raise `KernelError`."""
    call_in_netns(netns_fd, _prepare)


def undo_transparent(netns_fd: int) -> bool:
    """Remove them again, and the rules; False if there was nothing."""
    return call_in_netns(netns_fd, _undo)


def _prepare() -> None:
    with IPRoute() as ip:
        loopback = ip.link_lookup(ifname="lo")[0]
        for family, everywhere in _families():
            route = _route(family, everywhere, loopback)
            _apply(partial(ip.route, "add", **route), _PRESENT)
    _write_sysctls("1")


def _undo() -> bool:
    found = False
    with IPRoute() as ip:
        loopback = ip.link_lookup(ifname="lo")[0]
        for family, everywhere in _families():
            found |= _apply(partial(ip.rule, "del", **_rule(family)), _ABSENT)
            route = _route(family, everywhere, loopback)
            found |= _apply(partial(ip.route, "del", **route), _ABSENT)
    if found:
        _write_sysctls("0")
    return found


def _families() -> list[tuple[int, str]]:
    """Those the namespace has: IPv6 can be switched off."""
    has_ipv6 = Path("/proc/sys/net/ipv6").is_dir()
    return [pair for pair in _FAMILIES if has_ipv6 or pair[0] == socket.AF_INET]


def _rule(family: int) -> dict[str, int]:
    return {"family": family, "fwmark": MARK, "table": TABLE, "priority": PRIORITY}


def _route(family: int, everywhere: str, loopback: int) -> dict[str, int | str]:
    route: dict[str, int | str] = {
        "family": family,
        "dst": everywhere,
        "table": TABLE,
        "oif": loopback,
        "type": _RTN_LOCAL,
    }
    if family == socket.AF_INET:
        route["scope"] = _RT_SCOPE_HOST
    return route


def _apply(step: Callable[[], object], harmless: frozenset[int]) -> bool:
    """Whether the step changed something; `harmless` are the errors for "already so"."""
    try:
        step()
    except NetlinkError as error:
        if error.code not in harmless:
            raise KernelError("transparent routing", int(error.code)) from error
        return False
    return True


def _write_sysctls(value: str) -> None:
    """IPv6's is left out where the namespace has no IPv6."""
    for path in _SYSCTLS:
        if path.parent.is_dir():
            try:
                path.write_text(value, encoding="ascii")
            except OSError as error:
                raise KernelError(f"sysctl {path}", error.errno or 0) from error
