"""What a worker knows: the newest snapshot, its compiled policies, and the certificates.

One writer (the feed); everybody else reads. Nothing is forgotten when the node process goes away:
the worker goes on with what it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from mesh.model.snapshot import MeshSnapshot
from mesh.policy.engine import PolicyIndex


class WorkerState:
    """The present view of the mesh."""

    def __init__(self) -> None:
        self.snapshot = MeshSnapshot(revision=0)
        self.policies = PolicyIndex.compile(self.snapshot)
        self._credentials: dict[SpiffeId, Credentials] = {}
        self._arrived = asyncio.Event()

    def replace_snapshot(self, snapshot: MeshSnapshot) -> None:
        """Take a new snapshot and compile its policies; both change together."""
        policies = PolicyIndex.compile(snapshot, self.policies)
        self.snapshot, self.policies = snapshot, policies

    def change_credentials(self, valid: Iterable[Credentials], gone: Iterable[SpiffeId]) -> None:
        """Take new certificates and drop those that must not be used any more."""
        for identity in gone:
            self._credentials.pop(identity, None)
        for credentials in valid:
            self._credentials[credentials.svid.identity] = credentials
        self._arrived.set()
        self._arrived = asyncio.Event()

    @property
    def identities(self) -> int:
        return len(self._credentials)

    def credentials(self, identity: SpiffeId, now: float) -> Credentials | None:
        """Certificate of an identity; None if there is none, or it expired (`now`: epoch s)."""
        found = self._credentials.get(identity)
        return found if found is not None and now < found.svid.not_after else None

    def trusted_domains(self, identity: SpiffeId) -> tuple[str, ...]:
        """Trust domains whose peers an identity accepts at present."""
        found = self._credentials.get(identity)
        return found.bundle.trust_domains if found is not None else ()

    async def wait_credentials(
        self, identity: SpiffeId, now: float, timeout_s: float
    ) -> Credentials | None:
        """Like `credentials`, but wait for the first one of a workload that was just enrolled."""
        try:
            async with asyncio.timeout(timeout_s):
                while (found := self.credentials(identity, now)) is None:
                    if identity in self._credentials:
                        return None
                    await self._arrived.wait()
                return found
        except TimeoutError:
            return None
