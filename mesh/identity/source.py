"""Where a node's certificates come from: the seam between the store and a CA."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from mesh.model.credentials import Credentials, TrustBundle
from mesh.model.identity import SpiffeId


class CertificateSource(Protocol):
    """A CA, remote or embedded. Errors of both: `IdentityError`, `UpstreamError`."""

    async def fetch(self, identity: SpiffeId) -> Credentials:
        """A new key and certificate, with the newest bundle. Cancellable."""
        ...

    def watch_bundle(self) -> AsyncIterator[TrustBundle]:
        """The bundle now, then every later one; raises when the CA cannot be reached."""
        ...
