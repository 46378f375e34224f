"""What makes ztunnel's packets local to a pod: `ip rule fwmark 0x539 lookup 100`, and that table.

Everything happens in the namespace of the calling thread, a family at a time.
"""

from __future__ import annotations

import errno
import socket
import struct

from agent.rtnetlink import Ask, attributes, change

MARK = 0x539
"""`ZTUNNEL_MARK` of bpf/layout.h; the holder does not load the mirror of the maps for it."""
TABLE = 100
PRIORITY = 32000
"""Of the rule: before the main table (32766)."""

# linux/fib_rules.h and linux/rtnetlink.h: the fixed parts have one shape.
_FIXED = struct.Struct("=BBBBBBBBI")
_TO_TABLE, _LOCAL = 1, 2
_FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE = 6, 10, 15
_RTA_OIF = 4
_PROTOCOL_STATIC = 4
_SCOPES = {socket.AF_INET: 254, socket.AF_INET6: 0}
"""Of local routes: host; IPv6 has no scopes."""
_PRESENT = frozenset({errno.EEXIST})
_ABSENT = frozenset({errno.ENOENT, errno.ESRCH})


def add_rule(family: socket.AddressFamily) -> bool:
    """Send marked packets to the table; whether that was new. Raises `KernelError`.

    While a namespace has a rule of its own, every route look-up asks the rules, 1 to 1.5
    microseconds per connection: add it only where ztunnel speaks to the application.
    """
    return change(Ask.NEW_RULE, _rule(family), "rule for ztunnel's packets", harmless=_PRESENT)


def delete_rule(family: socket.AddressFamily) -> bool:
    """Whether there was one. Raises `KernelError`."""
    return change(Ask.DELETE_RULE, _rule(family), "rule for ztunnel's packets", harmless=_ABSENT)


def add_route(family: socket.AddressFamily) -> bool:
    """Make all addresses local in the table; whether that was new. Raises `KernelError`."""
    return change(Ask.NEW_ROUTE, _route(family), "route for ztunnel's packets", harmless=_PRESENT)


def delete_route(family: socket.AddressFamily) -> bool:
    """Whether there was one. Raises `KernelError`."""
    return change(Ask.DELETE_ROUTE, _route(family), "route for ztunnel's packets", harmless=_ABSENT)


def _rule(family: socket.AddressFamily) -> bytes:
    pairs = ((_FRA_PRIORITY, PRIORITY), (_FRA_FWMARK, MARK), (_FRA_TABLE, TABLE))
    return _FIXED.pack(family, 0, 0, 0, TABLE, 0, 0, _TO_TABLE, 0) + attributes(pairs)


def _route(family: socket.AddressFamily) -> bytes:
    fixed = _FIXED.pack(family, 0, 0, 0, TABLE, _PROTOCOL_STATIC, _SCOPES[family], _LOCAL, 0)
    return fixed + attributes([(_RTA_OIF, socket.if_nametoindex("lo"))])
