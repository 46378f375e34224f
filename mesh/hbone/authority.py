"""The target of a CONNECT: an address or a host name, always with a port (RFC 9110 §9.3.6)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mesh.errors import ConfigError, RemoteProtocolError
from mesh.model.address import SocketAddress, parse_socket_address

# RFC 1035 §2.3.4: a name has 253 characters at most; underscore is seen in service names.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOSTNAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMERIC = re.compile(r"[0-9.]+")
_MAX_HOSTNAME = 253
_MAX_AUTHORITY = _MAX_HOSTNAME + len(":65535")


@dataclass(frozen=True, slots=True, order=True)
class HostPort:
    """A host name, in lower case, and a TCP port."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if len(self.host) > _MAX_HOSTNAME or not _HOSTNAME.fullmatch(self.host):
            raise ConfigError(f"{self.host!r} is not a host name")
        if not 0 < self.port < 65536:
            raise ConfigError(f"{self.port} is not a TCP port")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


Authority = SocketAddress | HostPort


def parse_authority(value: bytes) -> Authority:
    """Parse `a.b.c.d:port`, `[v6]:port` or `hostname:port`; raise `RemoteProtocolError`."""
    if not 0 < len(value) <= _MAX_AUTHORITY or not value.isascii():
        raise RemoteProtocolError(f":authority {value[:64]!r} has no usable form")
    text = value.decode("ascii")
    host, _, port = text.rpartition(":")
    try:
        if host.startswith("[") or _NUMERIC.fullmatch(host):
            if "%" in host:  # a zone means something on the sender's machine only
                raise ConfigError(f"{text!r} has a zone")
            return parse_socket_address(text)
        if not port.isdigit() or len(port) > 5:
            raise ConfigError(f"{text!r} has no port")
        return HostPort(host.lower(), int(port))
    except ConfigError as error:
        raise RemoteProtocolError(f":authority is unusable: {error}") from error
