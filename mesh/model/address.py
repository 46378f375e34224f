"""IP addresses and ports, in the one form used inside: v4-mapped IPv6 is always plain IPv4."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from mesh.errors import ConfigError

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


def canonical_ip(address: IPAddress) -> IPAddress:
    """Turn `::ffff:a.b.c.d` into `a.b.c.d`; leave every other address as it is."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def parse_ip(text: str) -> IPAddress:
    """Parse and canonicalise an address; raise `ConfigError`. A zone id (`%eth0`) is dropped."""
    try:
        return canonical_ip(ip_address(text.partition("%")[0]))
    except ValueError as error:
        raise ConfigError(f"{text!r} is not an IP address") from error


@dataclass(frozen=True, slots=True, order=True)
class SocketAddress:
    """An IP address and a TCP port."""

    ip: IPAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


def parse_socket_address(text: str) -> SocketAddress:
    """Parse `a.b.c.d:port` or `[v6]:port`; raise `ConfigError`."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"{text!r} is not an address with a port")
    ip = parse_ip(host[1:-1] if bracketed else host)
    if bracketed != (":" in host):
        raise ConfigError(f"{text!r}: an IPv6 address with a port is written [address]:port")
    return SocketAddress(ip, int(port))
