"""The pod's rule `fwmark 0x539 lookup 100`, in the namespace of the calling thread.

It is made when ztunnel first speaks to the pod's application and not at enrolment: while a
namespace has a rule of its own, every route look-up asks the rules, 1 to 1.5 microseconds per
connection, for nothing in pods that only dial or are only dialled directly. Plain netlink, because
the library that speaks it takes more memory than the holder.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from enum import IntEnum

from agent.holder.protocol import Family
from mesh.errors import KernelError

MARK = 0x539
"""`ZTUNNEL_MARK` of bpf/layout.h."""
TABLE = 100
PRIORITY = 32000
"""Before the main table (32766)."""

# linux/netlink.h, linux/rtnetlink.h, linux/fib_rules.h
_RTM_NEWRULE, _RTM_DELRULE, _NLMSG_ERROR = 32, 33, 2
_REQUEST_ACK, _CREATE_EXCL = 0x1 | 0x4, 0x400 | 0x200
_FR_ACT_TO_TBL = 1
_FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE = 6, 10, 15
_DOMAINS = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_HEADER = struct.Struct("=IHHII")
_RULE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HHI")
_ERROR = struct.Struct("=i")
_ANSWER_BYTES = 4096


class _Verb(IntEnum):
    ADD = _RTM_NEWRULE
    DELETE = _RTM_DELRULE


def add_rule(family: Family) -> None:
    """Add the rule unless it is there. Raises `KernelError`."""
    _apply(_Verb.ADD, _CREATE_EXCL, family, harmless=frozenset({errno.EEXIST}))


def delete_rule(family: Family) -> None:
    """Delete the rule if it is there. Raises `KernelError`."""
    absent = frozenset({errno.ENOENT, errno.ESRCH})
    _apply(_Verb.DELETE, 0, family, harmless=absent)


def _apply(verb: _Verb, flags: int, family: Family, *, harmless: frozenset[int]) -> None:
    what = f"rule for packets of ztunnel, IPv{family.value}"
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.send(_message(verb, flags, family))
            code = _answered(netlink.recv(_ANSWER_BYTES))
    except OSError as error:
        raise KernelError(what, error.errno or 0) from error
    if code and code not in harmless:
        raise KernelError(what, code, os.strerror(code))


def _message(verb: _Verb, flags: int, family: Family) -> bytes:
    body = _RULE.pack(_DOMAINS[family], 0, 0, 0, TABLE, 0, 0, _FR_ACT_TO_TBL, 0) + b"".join(
        _ATTRIBUTE.pack(_ATTRIBUTE.size, kind, value)
        for kind, value in ((_FRA_PRIORITY, PRIORITY), (_FRA_FWMARK, MARK), (_FRA_TABLE, TABLE))
    )
    return _HEADER.pack(_HEADER.size + len(body), verb, _REQUEST_ACK | flags, 1, 0) + body


def _answered(answer: bytes) -> int:
    """The error number that the kernel's acknowledgement carries; 0 if all is well."""
    if len(answer) < _HEADER.size + _ERROR.size or _HEADER.unpack_from(answer)[1] != _NLMSG_ERROR:
        return errno.EPROTO
    code: int = _ERROR.unpack_from(answer, _HEADER.size)[0]
    return -code
