"""A served CA as one object: for the controller, and for an agent started with its own CA."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from mesh.errors import ConfigError, IdentityError
from mesh.identity.arrivals import Arrivals
from mesh.identity.authority import StoredAuthority
from mesh.identity.ca import CaSettings
from mesh.identity.client import LocalCa
from mesh.identity.directory import IdentityDirectory
from mesh.identity.profiles import RandomBytes
from mesh.identity.server import Authenticator, CaServer, JoinTokenAuthenticator, ServerLimits
from mesh.identity.server_tls import (
    RENEW_AFTER_S,
    issue_server_pem,
    load_server_pem,
    server_context,
)
from mesh.identity.state_dir import StateDir

_log = logging.getLogger(__name__)


class CaHost:
    """Owns the right to serve from a state directory, the authority and its HTTPS server.

    Put `run()` into a task group between `start()` and `stop()`.

    Args:
        clock: seconds since the epoch.
        authenticator: None for join tokens of the state directory.
        arrivals: see `CaServer`.
    """

    def __init__(
        self,
        state_dir: StateDir,
        *,
        directory: IdentityDirectory,
        clock: Callable[[], float],
        random_bytes: RandomBytes,
        settings: CaSettings | None = None,
        limits: ServerLimits | None = None,
        authenticator: Authenticator | None = None,
        arrivals: Arrivals | None = None,
    ) -> None:
        """Take the lock and load everything; raise `ConfigError` if that cannot be."""
        self._state_dir = state_dir
        self._clock = clock
        self._random_bytes = random_bytes
        self._held = ExitStack()
        self._held.enter_context(state_dir.serving())
        try:
            self._server_root = state_dir.load_server_root()
            self.authority = StoredAuthority(
                state_dir,
                directory=directory,
                settings=settings or CaSettings(),
                clock=clock,
                random_bytes=random_bytes,
            )
            self._tls = server_context()
            self._server = CaServer(
                self.authority,
                authenticator or JoinTokenAuthenticator(state_dir),
                tls=self._tls,
                server_root_pem=self._server_root.roots_pem,
                limits=limits or ServerLimits(),
                arrivals=arrivals,
            )
        except BaseException:
            self._held.close()
            raise

    @property
    def problem(self) -> str:
        """What keeps the CA from its newest state; empty if nothing does."""
        return self.authority.problem

    @property
    def answers(self) -> Mapping[str, int]:
        """Requests for certificates so far, by result."""
        return self._server.answers

    def source(self, node: str) -> LocalCa:
        """The CA as certificate source of the node it is embedded in."""
        return LocalCa(self.authority, node)

    async def start(self, host: str, port: int) -> int:
        """Serve; returns the port. On failure nothing stays held."""
        try:
            self._renew_server_certificate(self._tls)
            return await self._server.start(host, port)
        except BaseException:
            self._held.close()
            raise

    async def run(self) -> None:
        """Keep state and server certificate fresh until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.authority.run())
            while True:
                await asyncio.sleep(RENEW_AFTER_S)
                try:
                    self._renew_server_certificate(self._tls)
                except (ConfigError, IdentityError) as error:
                    # The old one lasts twice as long as it is used: there are tries to come.
                    _log.error("the CA's server certificate was not renewed: %s", error)

    async def stop(self) -> None:
        """Stop serving and let go of the directory. Idempotent."""
        try:
            await self._server.stop()
        finally:
            self._held.close()

    def _renew_server_certificate(self, tls: ssl.SSLContext) -> None:
        pem = issue_server_pem(
            self._server_root, now=self._clock(), random_bytes=self._random_bytes
        )
        load_server_pem(tls, self._state_dir.write_server_pem(pem))
