"""The CA of one state directory: the core and its files in step.

Changes that other processes make in the directory (a root rotation, say) are seen within a
second, due rotation steps are taken, and waiting readers of the bundle are told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mesh.errors import ConfigError
from mesh.identity.ca import CaSettings, CertificateAuthority, IssuedChain
from mesh.identity.directory import IdentityDirectory
from mesh.identity.profiles import RandomBytes
from mesh.identity.roots import CaState, advance, next_step_at
from mesh.identity.state_dir import StateDir
from mesh.model.credentials import TrustBundle

POLL_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedBundle:
    """A trust bundle and the CA's revision of it."""

    revision: int
    bundle: TrustBundle


class StoredAuthority:
    """Signs from a state directory. The owner holds `state_dir.serving()` and runs `run()`."""

    def __init__(
        self,
        state_dir: StateDir,
        *,
        directory: IdentityDirectory,
        settings: CaSettings,
        clock: Callable[[], float],
        random_bytes: RandomBytes,
    ) -> None:
        """Load the state; raise `ConfigError` if it cannot be used."""
        self._state_dir = state_dir
        self._settings = settings
        self._clock = clock
        self._core = CertificateAuthority(
            directory=directory, settings=settings, random_bytes=random_bytes
        )
        self._state, self._version = state_dir.load_ca()
        self._changed = asyncio.Event()
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why the directory's newest state is not in use; empty while it is."""
        return self._problem

    def sign(self, csr_pem: bytes, *, node: str) -> IssuedChain:
        """Sign for an authenticated node; errors as of `CertificateAuthority.sign`."""
        return self._core.sign(self._state, csr_pem, node=node, now=self._clock())

    def bundle(self) -> NumberedBundle:
        """The bundle as it is now."""
        return NumberedBundle(revision=self._state.revision, bundle=self._state.bundle)

    async def wait_bundle_other_than(self, revision: int) -> NumberedBundle:
        """The bundle as soon as its revision differs from the given one."""
        while self._state.revision == revision:
            await self._changed.wait()
        return self.bundle()

    async def run(self) -> None:
        """Keep core and directory in step until cancelled; trouble keeps the last good state."""
        while True:
            await self._keep_in_step()
            await asyncio.sleep(POLL_S)

    async def _keep_in_step(self) -> None:
        try:
            if self._state_dir.ca_version() != self._version:
                self._adopt(*self._state_dir.load_ca())
            due_at = next_step_at(self._state, self._settings.timing)
            if due_at is not None and due_at <= self._clock():
                step = partial(advance, timing=self._settings.timing, now=self._clock())
                await asyncio.to_thread(self._state_dir.update_ca, step)
                self._adopt(*self._state_dir.load_ca())
        except ConfigError as error:
            if str(error) != self._problem:
                _log.error("the CA goes on with its last good state: %s", error)
            self._problem = str(error)
        else:
            self._problem = ""

    def _adopt(self, state: CaState, version: tuple[int, int, int]) -> None:
        self._version = version
        if state == self._state:
            return
        self._state = state
        stages = ", ".join(staged.stage.value for staged in state.roots)
        _log.info("CA state changed: bundle revision %d, roots %s", state.revision, stages)
        self._changed.set()
        self._changed = asyncio.Event()
