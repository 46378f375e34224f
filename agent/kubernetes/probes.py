"""Where the kubelet's probes come from: the node's own addresses.

A probe is plaintext by nature. It comes from whatever address the node's routing picks (a bridge's,
the uplink's, a tunnel's), so all of them may reach a pod; nobody but the node itself has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from pyroute2 import IPRoute

from mesh.model.address import IPAddress, parse_ip

_SCOPE_LINK = 253
"""From here on an address is known on one link only, or to the node alone (rtnetlink(7))."""


def own_addresses() -> tuple[IPAddress, ...]:
    """Every address of this network namespace that others can see, in a steady order."""
    # pyroute2 runs an event loop of its own, which it cannot where one is running already.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_read_addresses).result()


def _read_addresses() -> tuple[IPAddress, ...]:
    with IPRoute() as route:
        return visible_addresses(
            (dict(message["attrs"]), message["scope"]) for message in route.get_addr()
        )


def visible_addresses(
    found: Iterable[tuple[Mapping[str, object], int]],
) -> tuple[IPAddress, ...]:
    """Of attributes and scope of each address: those that no other node or link can have."""
    texts = {
        str(attributes.get("IFA_LOCAL", attributes.get("IFA_ADDRESS")))
        for attributes, scope in found
        if scope < _SCOPE_LINK
    }
    return tuple(sorted(map(parse_ip, texts), key=lambda ip: (ip.version, int(ip))))
