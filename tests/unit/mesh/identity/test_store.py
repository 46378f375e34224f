"""The certificate store against a real CA core, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace

from mesh.errors import UpstreamError
from mesh.identity.ca import CaSettings, CertificateAuthority
from mesh.identity.csr import new_request
from mesh.identity.profiles import check_svid
from mesh.identity.roots import CaState
from mesh.identity.rotation import CertificateState, Priority
from mesh.identity.store import CertificateStore
from mesh.model.credentials import Credentials, TrustBundle
from mesh.model.identity import SpiffeId
from tests.unit.mesh.identity.builders import NODE, NOW, authority, ca_state, spiffe
from tests.unit.mesh.identity.virtual_time import run_virtual

WEB, DB = spiffe("web"), spiffe("db")
LIFETIME_S = 100.0


def clock() -> float:
    return NOW + asyncio.get_running_loop().time()


class SwitchableCa:
    """A certificate source over the CA core that can be switched off."""

    def __init__(self) -> None:
        self.is_up = True
        self.clock_step_s = 0.0
        self.fetches: list[tuple[float, SpiffeId]] = []
        self._state: CaState = ca_state()
        self._core: CertificateAuthority = authority(CaSettings(leaf_lifetime_s=LIFETIME_S))
        self._changed = asyncio.Event()

    async def fetch(self, identity: SpiffeId) -> Credentials:
        self.fetches.append((clock() - NOW, identity))
        await asyncio.sleep(0.1)
        self._check_up()
        request = new_request(identity)
        issued = self._core.sign(self._state, request.csr_pem, node=NODE, now=clock())
        svid = check_svid(request, issued.chain_pem)
        return Credentials(svid=svid, bundle=self._state.bundle)

    async def watch_bundle(self) -> AsyncIterator[TrustBundle]:
        while True:
            self._check_up()
            yield self._state.bundle
            await self._changed.wait()

    def add_alias(self, alias: str) -> None:
        domains = (*self._state.trust_domains, alias)
        self._state = replace(self._state, trust_domains=domains)
        self._changed.set()
        self._changed = asyncio.Event()

    def _check_up(self) -> None:
        if not self.is_up:
            raise UpstreamError("the CA is down")


def scenario(
    test: Callable[[CertificateStore, SwitchableCa], Coroutine[object, object, None]],
) -> None:
    """Run a test beside a running store, in virtual time."""

    async def main() -> None:
        source = SwitchableCa()
        store = CertificateStore(
            source, clock=lambda: clock() + source.clock_step_s, random=lambda: 0.5
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(store.run())
            await test(store, source)
            running.cancel()

    run_virtual(main())


def test_fetched_renewed_and_pushed() -> None:
    async def test(store: CertificateStore, source: SwitchableCa) -> None:
        updates = store.updates()
        store.set_wanted({WEB: Priority.NOW})
        assert store.credentials(WEB) is None
        first = (await anext(updates)).valid[0]
        assert store.credentials(WEB) == first
        second = (await anext(updates)).valid[0]
        assert 49 < clock() - NOW < 52
        assert second.svid.serial != first.svid.serial
        (status,) = store.statuses()
        assert status.state is CertificateState.VALID
        assert status.serial == second.svid.serial
        await updates.aclose()

    scenario(test)


def test_a_late_subscriber_gets_what_is_held() -> None:
    async def test(store: CertificateStore, source: SwitchableCa) -> None:
        store.set_wanted({WEB: Priority.NOW})
        await asyncio.sleep(1)
        update = await anext(store.updates())
        assert [c.svid.identity for c in update.valid] == [WEB]

    scenario(test)


def test_a_ca_down_past_expiry_makes_the_identity_unusable_and_coming_back_heals() -> None:
    async def test(store: CertificateStore, source: SwitchableCa) -> None:
        store.set_wanted({WEB: Priority.NOW})
        await asyncio.sleep(1)
        source.is_up = False
        await asyncio.sleep(LIFETIME_S - 3)
        assert store.credentials(WEB) is not None
        updates = store.updates()
        await anext(updates)
        gone = await anext(updates)
        assert gone.gone == (WEB,)
        assert clock() >= NOW + LIFETIME_S - 1
        assert store.credentials(WEB) is None
        (status,) = store.statuses()
        assert status.state is CertificateState.EXPIRED
        assert "down" in status.last_error
        source.is_up = True
        back = await anext(updates)
        assert back.valid[0].svid.identity == WEB
        assert store.credentials(WEB) is not None

    scenario(test)


def test_an_expired_certificate_is_not_handed_out_even_before_the_timer_runs() -> None:
    async def test(store: CertificateStore, source: SwitchableCa) -> None:
        store.set_wanted({WEB: Priority.NOW})
        await asyncio.sleep(1)
        assert store.credentials(WEB) is not None
        source.clock_step_s = 10_000
        assert store.credentials(WEB) is None

    scenario(test)


def test_a_new_bundle_reissues_credentials_without_a_new_certificate() -> None:
    async def test(store: CertificateStore, source: SwitchableCa) -> None:
        store.set_wanted({WEB: Priority.NOW})
        updates = store.updates()
        before = (await anext(updates)).valid[0]
        source.add_alias("old.example")
        after = (await anext(updates)).valid[0]
        assert after.svid == before.svid
        assert "old.example" in after.bundle.trust_domains
        assert len(source.fetches) == 1

    scenario(test)


def test_a_refused_identity_shows_why_and_does_not_hinder_others() -> None:
    async def test(store: CertificateStore, source: SwitchableCa) -> None:
        store.set_wanted({DB: Priority.NOW, WEB: Priority.NOW})
        await asyncio.sleep(5)
        by_identity = {status.identity: status for status in store.statuses()}
        assert by_identity[DB].state is CertificateState.FAILED
        assert "no workload" in by_identity[DB].last_error
        assert by_identity[WEB].state is CertificateState.VALID

    scenario(test)


def test_forgotten_when_unwanted() -> None:
    async def test(store: CertificateStore, source: SwitchableCa) -> None:
        store.set_wanted({WEB: Priority.NOW})
        updates = store.updates()
        await anext(updates)
        store.set_wanted({})
        assert (await anext(updates)).gone == (WEB,)
        assert store.credentials(WEB) is None
        fetched = len(source.fetches)
        await asyncio.sleep(LIFETIME_S)
        assert len(source.fetches) == fetched

    scenario(test)


def test_a_ca_that_is_down_at_the_start_is_asked_again() -> None:
    async def test(store: CertificateStore, source: SwitchableCa) -> None:
        source.is_up = False
        store.set_wanted({WEB: Priority.NOW})
        await asyncio.sleep(10)
        assert "down" in store.bundle_error
        assert 3 <= len(source.fetches) <= 5
        source.is_up = True
        await asyncio.sleep(40)
        assert store.bundle_error == ""
        assert store.credentials(WEB) is not None

    scenario(test)
