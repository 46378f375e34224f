"""Sockets for pages and metrics."""

from __future__ import annotations

import socket

from mesh.model.address import SocketAddress


def bind_tcp(address: SocketAddress) -> socket.socket:
    """A bound socket that does not listen yet; raises `OSError`."""
    family = socket.AF_INET6 if address.ip.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(address.ip), address.port))
    except OSError:
        sock.close()
        raise
    return sock
