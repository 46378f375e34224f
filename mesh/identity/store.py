"""A node's certificates: the shell that carries out `rotation` against a certificate source.

One task of the owner's group runs `run()`. Keys live in memory only. Whatever goes wrong with
the CA stays inside: it shows in `statuses()` and `bundle_error`, and after its expiry a
certificate is not handed out any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from mesh.errors import IdentityError, UpstreamError
from mesh.identity.rotation import (
    Action,
    CertificateStatus,
    Expire,
    Fetch,
    Forget,
    Lifetime,
    Priority,
    RotationPlan,
)
from mesh.identity.source import CertificateSource
from mesh.model.credentials import Credentials, TrustBundle
from mesh.model.identity import SpiffeId

LONGEST_SLEEP_S = 30.0
"""Timers count monotonic time, certificates wall time: look at the clock at least this often."""

BUNDLE_RETRY_FIRST_S = 1.0
BUNDLE_RETRY_MAX_S = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsUpdate:
    """What changed: credentials to use from now on, identities that have none any more."""

    valid: tuple[Credentials, ...]
    gone: tuple[SpiffeId, ...]


class _Subscriber:
    """Collects changes per identity, so that a slow reader costs bounded memory."""

    def __init__(self, initial: Mapping[SpiffeId, Credentials]) -> None:
        self._pending: dict[SpiffeId, Credentials | None] = dict(initial)
        self._changed = asyncio.Event()
        if initial:
            self._changed.set()

    def put(self, identity: SpiffeId, credentials: Credentials | None) -> None:
        self._pending[identity] = credentials
        self._changed.set()

    async def take(self) -> CredentialsUpdate:
        await self._changed.wait()
        pending, self._pending = self._pending, {}
        self._changed.clear()
        return CredentialsUpdate(
            valid=tuple(c for c in pending.values() if c is not None),
            gone=tuple(identity for identity, c in pending.items() if c is None),
        )


class CertificateStore:
    """Holds, renews and forgets the certificates of the identities that run here.

    Args:
        clock: seconds since the epoch.
        random: floats in [0, 1).
    """

    def __init__(
        self,
        source: CertificateSource,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._source = source
        self._clock = clock
        self._random = random
        self._plan = RotationPlan(random)
        self._held: dict[SpiffeId, Credentials] = {}
        self._bundle: TrustBundle | None = None
        self._bundle_error = ""
        self._subscribers: set[_Subscriber] = set()
        self._to_fetch: list[SpiffeId] = []
        self._woken = asyncio.Event()

    @property
    def bundle(self) -> TrustBundle | None:
        """The newest trust bundle; None before the CA first answered."""
        return self._bundle

    @property
    def bundle_error(self) -> str:
        """Why changes of the bundle do not arrive; empty while they do."""
        return self._bundle_error

    def set_wanted(self, wanted: Mapping[SpiffeId, Priority]) -> None:
        """Replace the set of identities to hold certificates for; forgets the others at once."""
        self._carry_out(self._plan.set_wanted(wanted, self._clock()))

    def credentials(self, identity: SpiffeId) -> Credentials | None:
        """Credentials that are valid now; None if there are none (yet, or any more)."""
        held = self._held.get(identity)
        if held is None or self._clock() >= held.svid.not_after:
            return None
        return held

    def statuses(self) -> list[CertificateStatus]:
        """Every wanted identity, for people."""
        return self._plan.statuses()

    async def updates(self) -> AsyncGenerator[CredentialsUpdate, None]:
        """All credentials held now (if any), then every change, merged while nobody reads."""
        subscriber = _Subscriber(
            {i: c for i, c in self._held.items() if self.credentials(i) is not None}
        )
        self._subscribers.add(subscriber)
        try:
            while True:
                yield await subscriber.take()
        finally:
            self._subscribers.discard(subscriber)

    async def run(self) -> None:
        """Fetch, renew and watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_bundle())
            while True:
                self._carry_out(self._plan.on_deadline(self._clock()))
                while self._to_fetch:
                    group.create_task(self._fetch(self._to_fetch.pop(0)))
                self._woken.clear()
                await self._sleep()

    async def _sleep(self) -> None:
        deadline = self._plan.next_deadline()
        delay = LONGEST_SLEEP_S if deadline is None else deadline - self._clock()
        try:
            async with asyncio.timeout(max(0.0, min(delay, LONGEST_SLEEP_S))):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _fetch(self, identity: SpiffeId) -> None:
        try:
            fetched = await self._source.fetch(identity)
        except (IdentityError, UpstreamError) as error:
            _log.warning("no certificate for %s: %s", identity, error)
            self._carry_out(self._plan.failed(identity, str(error), self._clock()))
            return
        svid = fetched.svid
        lifetime = Lifetime(
            serial=svid.serial, not_before=svid.not_before, not_after=svid.not_after
        )
        self._adopt_bundle(fetched.bundle)
        actions = self._plan.fetched(identity, lifetime, self._clock())
        if self._plan.holds(identity, svid.serial):
            self._held[identity] = fetched
            self._publish(identity)
        self._carry_out(actions)

    async def _watch_bundle(self) -> None:
        delay = BUNDLE_RETRY_FIRST_S
        while True:
            try:
                async for bundle in self._source.watch_bundle():
                    self._bundle_error = ""
                    delay = BUNDLE_RETRY_FIRST_S
                    self._adopt_bundle(bundle)
            except (IdentityError, UpstreamError) as error:
                self._bundle_error = str(error)
                _log.warning("the trust bundle cannot be watched: %s", error)
            await asyncio.sleep(delay * (0.8 + 0.4 * self._random()))
            delay = min(BUNDLE_RETRY_MAX_S, delay * 2)

    def _adopt_bundle(self, bundle: TrustBundle) -> None:
        if bundle == self._bundle:
            return
        self._bundle = bundle
        for identity, held in self._held.items():
            self._held[identity] = replace(held, bundle=bundle)
            self._publish(identity)

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Fetch(identity):
                    self._to_fetch.append(identity)
                case Expire(identity):
                    _log.error("the certificate of %s expired and none replaced it", identity)
                    self._drop(identity)
                case Forget(identity):
                    self._drop(identity)
                case _:
                    assert_never(action)
        self._woken.set()

    def _drop(self, identity: SpiffeId) -> None:
        if self._held.pop(identity, None) is not None:
            self._publish(identity)

    def _publish(self, identity: SpiffeId) -> None:
        for subscriber in self._subscribers:
            subscriber.put(identity, self._held.get(identity))
