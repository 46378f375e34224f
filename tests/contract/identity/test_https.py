"""The CA over real HTTPS on loopback: server, client and controller together."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from controller import admin
from controller.run import ControllerPorts, ControllerSettings, run_controller
from mesh.errors import ConfigError
from mesh.identity import profiles, wire
from mesh.identity.authority import NumberedBundle
from mesh.identity.ca import CaSettings
from mesh.identity.client import CaClient
from mesh.identity.csr import new_request
from mesh.identity.errors import (
    BadTokenError,
    CaUnavailableError,
    PinMismatchError,
    RefusedError,
)
from mesh.identity.host import CaHost
from mesh.identity.roots import RootStage
from mesh.identity.rotation import Priority
from mesh.identity.server import Caller, CaServer, JoinTokenAuthenticator, ServerLimits
from mesh.identity.server_tls import (
    discovery_context,
    issue_server_pem,
    load_server_pem,
    server_context,
)
from mesh.identity.state_dir import StateDir
from mesh.identity.store import CertificateStore
from tests.unit.mesh.identity.builders import NODE, TRUST_DOMAIN, Placements, spiffe

WEB = spiffe("web")
HOST = "127.0.0.1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    state = admin.init_ca(
        tmp_path / "ca", trust_domain=TRUST_DOMAIN, now=time.time(), random_bytes=os.urandom
    )
    return state.path


def token_for(path: Path, node: str = NODE) -> str:
    return admin.create_token(path, node, now=time.time(), random_bytes=os.urandom)


@dataclass
class Running:
    ports: ControllerPorts

    def client(self, token: str) -> CaClient:
        return CaClient(host=HOST, port=self.ports.ca, token=token)


@asynccontextmanager
async def controller(
    path: Path, *, ca: CaSettings | None = None, limits: ServerLimits | None = None
) -> AsyncIterator[Running]:
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    settings = ControllerSettings(
        state_dir=path,
        host=HOST,
        port=0,
        health_port=0,
        ca=ca or CaSettings(),
        limits=limits or ServerLimits(),
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(
            run_controller(
                settings,
                directory=Placements(),
                clock=time.time,
                random_bytes=os.urandom,
                stop=stop,
                on_ready=ready.set_result,
            )
        )
        async with asyncio.timeout(10):
            ports = await ready
        try:
            yield Running(ports)
        finally:
            stop.set()


def run(test: Callable[[], Coroutine[object, object, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


def test_a_node_joins_and_gets_its_certificate(path: Path) -> None:
    async def test() -> None:
        async with controller(path) as ca, ca.client(token_for(path)) as client:
            credentials = await client.fetch(WEB)
            assert credentials.svid.identity == WEB
            assert credentials.bundle.trust_domains == (TRUST_DOMAIN,)
            assert await anext(client.watch_bundle()) == credentials.bundle

    run(test)


def test_the_identity_of_another_node_is_refused_with_the_reason(path: Path) -> None:
    async def test() -> None:
        async with controller(path) as ca, ca.client(token_for(path, "node-b")) as client:
            with pytest.raises(RefusedError, match="runs on node 'node-b'"):
                await client.fetch(WEB)

    run(test)


def test_unknown_and_revoked_tokens(path: Path, tmp_path: Path) -> None:
    async def test() -> None:
        token = token_for(path)
        node, secret, pin = token.removeprefix("mn1.").rsplit(".", 2)
        async with controller(path) as ca:
            async with ca.client(f"mn1.{node}.{'0' * len(secret)}.{pin}") as client:
                with pytest.raises(BadTokenError, match="unknown or revoked"):
                    await client.fetch(WEB)
            async with ca.client(token) as client:
                await client.fetch(WEB)
                (record,) = admin.list_tokens(path)
                assert record.node == NODE
                admin.revoke_token(path, record.token_id)
                with pytest.raises(BadTokenError):
                    await client.fetch(WEB)

    run(test)


def test_a_wrong_fingerprint_sends_no_token(path: Path) -> None:
    async def test() -> None:
        token = token_for(path).rsplit(".", 1)[0] + "." + "0" * 64
        async with controller(path) as ca, ca.client(token) as client:
            with pytest.raises(PinMismatchError, match="fingerprint"):
                await client.fetch(WEB)

    run(test)


def test_an_impostor_that_shows_the_genuine_root_gets_no_token(path: Path) -> None:
    async def test() -> None:
        seen: list[str] = []

        class Recorder:
            async def authenticate(self, token: str) -> Caller:
                seen.append(token)
                return Caller(node=NODE)

        state_dir = StateDir(path)
        impostor_root = profiles.new_root("impostor", time.time(), os.urandom)
        tls = server_context()
        pem = issue_server_pem(impostor_root, now=time.time(), random_bytes=os.urandom)
        load_server_pem(tls, state_dir.write_server_pem(pem))
        genuine = CaHost(
            state_dir, directory=Placements(), clock=time.time, random_bytes=os.urandom
        )
        impostor = CaServer(
            genuine.authority,
            Recorder(),
            tls=tls,
            server_root_pem=state_dir.load_server_root().roots_pem,
            limits=ServerLimits(),
        )
        try:
            port = await impostor.start(HOST, 0)
            async with CaClient(host=HOST, port=port, token=token_for(path)) as client:
                with pytest.raises(PinMismatchError, match="no longer has a certificate"):
                    await client.fetch(WEB)
        finally:
            await impostor.stop()
            await genuine.stop()
        assert seen == []

    run(test)


def test_a_root_rotation_is_pushed_and_then_signs(path: Path) -> None:
    async def test() -> None:
        settings = CaSettings(leaf_lifetime_s=60, publish_s=1.5, overlap_s=0)
        async with controller(path, ca=settings) as ca, ca.client(token_for(path)) as client:
            store = CertificateStore(client, clock=time.time, random=random.Random(1).random)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(store.run())
                store.set_wanted({WEB: Priority.NOW})
                updates = store.updates()
                before = (await anext(updates)).valid[0]
                admin.rotate_root(path, now=time.time(), random_bytes=os.urandom)
                after = (await anext(updates)).valid[0]
                assert after.svid == before.svid
                assert len(profiles.load_certificates(after.bundle.roots_pem)) == 2
                await eventually(lambda: admin.list_roots(path)[-1].stage is RootStage.ACTIVE)
                running.cancel()
            assert [root.stage for root in admin.list_roots(path)] == ["retiring", "active"]

    run(test)


def test_a_restarted_ca_goes_on_with_its_state(path: Path) -> None:
    async def test() -> None:
        token = token_for(path)
        async with controller(path) as ca, ca.client(token) as client:
            first = await client.fetch(WEB)
        async with controller(path) as ca, ca.client(token) as client:
            second = await client.fetch(WEB)
        assert second.bundle == first.bundle
        assert second.svid.serial != first.svid.serial

    run(test)


def test_a_ca_that_is_gone(path: Path) -> None:
    async def test() -> None:
        async with controller(path) as ca:
            client = ca.client(token_for(path))
        async with client:
            with pytest.raises(CaUnavailableError, match="cannot be reached"):
                await client.fetch(WEB)
        with pytest.raises(CaUnavailableError, match="closed"):
            await client.fetch(WEB)

    run(test)


def test_stopping_answers_those_who_wait_for_a_bundle(path: Path) -> None:
    async def test() -> None:
        token = token_for(path)
        url = f"{wire.BUNDLE_PATH}?revision=1"
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            async with controller(path) as ca:
                waiting = group.create_task(
                    _status(session, f"https://{HOST}:{ca.ports.ca}{url}", token)
                )
                async with ca.client(token) as client:
                    await client.fetch(WEB)  # A round trip later the other request waits.
                assert not waiting.done()
            assert await waiting == 200

    started = time.monotonic()
    run(test)
    assert time.monotonic() - started < 4


async def _status(session: aiohttp.ClientSession, url: str, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    async with session.get(url, headers=headers, ssl=discovery_context()) as response:
        return response.status


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that only polling shows; the test's own deadline bounds it."""
    while not condition():  # noqa: ASYNC110 - the other side polls a file
        await asyncio.sleep(0.05)


def test_limits_and_malformed_requests_are_answered_in_json(path: Path) -> None:
    async def test() -> None:
        headers = {"Authorization": f"Bearer {token_for(path)}"}
        request = new_request(WEB)
        good = {"csr": request.csr_pem.decode(), "identity": str(WEB)}
        limits = ServerLimits(burst=6, per_s=0.001)
        async with controller(path, limits=limits) as ca, aiohttp.ClientSession() as session:
            url = f"https://{HOST}:{ca.ports.ca}"

            async def post(body: object, used: dict[str, str] = headers) -> tuple[int, str]:
                async with session.post(
                    url + wire.CERTIFICATES_PATH, json=body, headers=used, ssl=discovery_context()
                ) as response:
                    answer = await response.json()
                    return response.status, answer.get("reason", "")

            assert (await post(good))[0] == 200
            assert (await post(good, {}))[0] == 401
            assert (await post({"csr": 1}))[0] == 400
            assert await post(good | {"csr": "x"}) == (
                400,
                "want exactly one PEM block CERTIFICATE REQUEST and nothing else",
            )
            assert "names" in (await post(good | {"identity": str(spiffe("db"))}))[1]
            assert (await post(good | {"pad": "x" * 20_000}))[0] == 413
            assert (await post(good))[0] == 200
            assert (await post(good))[0] == 429
            async with session.get(url + "/nowhere", ssl=discovery_context()) as response:
                assert response.status == 404
                assert (await response.json())["code"] == "http"

    run(test)


def test_health_names_a_corrupt_state_and_the_ca_goes_on(path: Path) -> None:
    async def test() -> None:
        async with controller(path) as ca, aiohttp.ClientSession() as session:
            url = f"http://{HOST}:{ca.ports.health}/healthz"

            async def health() -> tuple[int, str]:
                async with session.get(url) as response:
                    return response.status, await response.text()

            assert await health() == (200, "ok\n")
            async with ca.client(token_for(path)) as client:
                (path / "ca.json").write_text("{")
                while (answer := await health())[0] == 200:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.1)
                assert "ca.json is corrupt" in answer[1]
                assert (await client.fetch(WEB)).svid.identity == WEB

    run(test)


def test_two_cas_do_not_share_a_directory(path: Path) -> None:
    async def test() -> None:
        async with controller(path):
            with pytest.raises(ConfigError, match="another CA serves"):
                CaHost(
                    StateDir(path),
                    directory=Placements(),
                    clock=time.time,
                    random_bytes=os.urandom,
                )

    run(test)


def test_an_embedded_ca_serves_its_own_node_and_lets_go_of_the_lock(path: Path) -> None:
    async def test() -> None:
        for _ in range(2):
            host = CaHost(
                StateDir(path), directory=Placements(), clock=time.time, random_bytes=os.urandom
            )
            await host.start(HOST, 0)
            own = await host.source(NODE).fetch(WEB)
            numbered = NumberedBundle(revision=1, bundle=own.bundle)
            assert host.authority.bundle() == numbered
            with pytest.raises(RefusedError):
                await host.source("node-b").fetch(WEB)
            await host.stop()
            await host.stop()

    run(test)


def test_unreadable_tokens_fail_closed(path: Path) -> None:
    async def test() -> None:
        authenticator = JoinTokenAuthenticator(StateDir(path))
        token = token_for(path)
        assert await authenticator.authenticate(token) == Caller(node=NODE)
        (path / "tokens.json").write_text("{")
        with pytest.raises(CaUnavailableError):
            await authenticator.authenticate(token)

    run(test)
