"""TLS towards servers that are not of the mesh: who they have to prove to be."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

MAX_CONTEXTS = 100
"""A context of the system's authorities takes about 1 MB and 20 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPeer:
    """What makes a server the right one.

    Attributes:
        ca_pem: who may have signed its certificate; empty = the system's authorities.
        protocol: of ALPN.
    """

    server_name: str
    ca_pem: str
    protocol: str


class TlsContexts:
    """The contexts of one worker, made when first needed."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], ssl.SSLContext] = {}

    def get(self, peer: TlsPeer) -> ssl.SSLContext:
        """A context that verifies chain and name."""
        key = (peer.ca_pem, peer.protocol)
        context = self._known.get(key)
        if context is None:
            if len(self._known) >= MAX_CONTEXTS:  # providers that were edited often
                self._known.clear()
            context = ssl.create_default_context(cadata=peer.ca_pem or None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols([peer.protocol])
            self._known[key] = context
        return context
