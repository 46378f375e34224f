"""Where the kubelet's probes come from: the node's own addresses.

A probe is plaintext by nature. It comes from whatever address the node's routing picks (a bridge's,
the uplink's, a tunnel's), so all of them may reach a pod; nobody but the node itself has them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from agent.rtnetlink import Ask, attributes_of, listed
from mesh.model.address import IPAddress

# linux/if_addr.h, linux/rtnetlink.h
_FIXED = struct.Struct("=BBBBI")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_SCOPE_LINK = 253
"""From here on an address is known on one link only, or to the node alone (rtnetlink(7))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnAddress:
    """An address of an interface; the smaller the scope's number, the more hosts can see it."""

    ip: IPAddress
    scope: int


def own_addresses() -> tuple[IPAddress, ...]:
    """Every address of this network namespace that others can see, in a steady order.

    Raises `KernelError`.
    """
    answers = listed(Ask.ADDRESSES, _FIXED.pack(0, 0, 0, 0, 0), "list of own addresses")
    return visible_addresses(map(parse_address, answers))


def parse_address(answer: bytes) -> OwnAddress:
    """One address as the kernel tells it. Raises `ValueError`."""
    _, _, _, scope, _ = _FIXED.unpack_from(answer)
    found = dict(attributes_of(answer, _FIXED.size))
    # Of a point-to-point link IFA_ADDRESS is the other end; IPv6 has IFA_LOCAL there only.
    return OwnAddress(ip=ip_address(found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]), scope=scope)


def visible_addresses(found: Iterable[OwnAddress]) -> tuple[IPAddress, ...]:
    """Of all addresses those that no other node or link can have."""
    seen = {address.ip for address in found if address.scope < _SCOPE_LINK}
    return tuple(sorted(seen, key=lambda ip: (ip.version, int(ip))))
