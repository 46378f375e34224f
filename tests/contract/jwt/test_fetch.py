"""Keys over real sockets: TLS, redirects, sizes, times, and the ring that keeps them fresh."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mesh.errors import UpstreamError
from mesh.jwt.authenticate import Authenticated, Authenticator, Rejected
from mesh.jwt.extract import TokenRequest
from mesh.jwt.fetch import KeyFetcher, KeyRing
from mesh.jwt.jwks import location_of
from mesh.jwt.keys import MAX_KEY_SET_BYTES
from tests.unit.mesh.jwt.issuer import NOW, bearer, jwks, payload, rule, signer, token

TIMEOUT_S = 30.0


@dataclass
class Issuer:
    """A local identity provider; `pages` maps paths to what they answer."""

    base: str = ""
    pages: dict[str, web.Response | bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    slow: asyncio.Event | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        page = self.pages.get(request.path)
        if request.path == "/slow" and self.slow is not None:
            await self.slow.wait()
        if isinstance(page, bytes):
            return web.Response(body=page)
        if page is None:
            return web.Response(status=404)
        return web.Response(status=page.status, headers=page.headers, body=page.body)


@asynccontextmanager
async def served(tls: ssl.SSLContext | None = None) -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/{path:.*}", issuer.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    try:
        await web.SockSite(runner, sock, ssl_context=tls).start()
        scheme = "https" if tls else "http"
        issuer.base = f"{scheme}://127.0.0.1:{sock.getsockname()[1]}"
        yield issuer
    finally:
        if issuer.slow is not None:
            issuer.slow.set()
        await runner.cleanup()
        sock.close()


@asynccontextmanager
async def fetching(tls: ssl.SSLContext | None = None) -> AsyncIterator[KeyFetcher]:
    fetcher = KeyFetcher(tls)
    try:
        yield fetcher
    finally:
        await fetcher.close()


def redirect(to: str, status: int = 302) -> web.Response:
    return web.Response(status=status, headers={"Location": to})


def play(script: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await script()

    asyncio.run(bounded())


async def refused(fetcher: KeyFetcher, url: str, message: str, allow_http: bool = True) -> None:
    with pytest.raises(UpstreamError, match=message):
        await fetcher.get(url, timeout_s=TIMEOUT_S, allow_http=allow_http)


def test_documents_and_everything_that_is_none() -> None:
    async def script() -> None:
        async with served() as issuer, fetching() as fetcher:
            large = b"x" * (MAX_KEY_SET_BYTES + 1)
            issuer.pages |= {
                "/keys": b"{}",
                "/large": large,
                "/exact": large[1:],
                "/error": web.Response(status=500),
                "/nowhere": web.Response(status=302),
                "/loop": redirect("/loop"),
                "/1": redirect("/2", 301),
                "/2": redirect("keys", 307),
                "/file": redirect("file:///etc/hostname"),
            }
            base = issuer.base
            for path in ("/keys", "/1"):
                body = await fetcher.get(base + path, timeout_s=TIMEOUT_S, allow_http=True)
                assert body == b"{}"
            exact = await fetcher.get(base + "/exact", timeout_s=TIMEOUT_S, allow_http=True)
            assert len(exact) == MAX_KEY_SET_BYTES
            await refused(fetcher, base + "/large", "sends more than")
            await refused(fetcher, base + "/error", "answers 500")
            await refused(fetcher, base + "/missing", "answers 404")
            await refused(fetcher, base + "/nowhere", "redirects to nowhere")
            await refused(fetcher, base + "/file", "is not https")
            asked = len(issuer.asked)
            await refused(fetcher, base + "/loop", "more than 3 redirects")
            assert len(issuer.asked) - asked == 4
            asked = len(issuer.asked)
            await refused(fetcher, base + "/keys?secret=1", "http://127.0.0.1/keys is not", False)
            assert len(issuer.asked) == asked

    play(script)


def test_a_closed_port_and_a_slow_server() -> None:
    async def script() -> None:
        async with served() as issuer, fetching() as fetcher:
            issuer.slow = asyncio.Event()
            with pytest.raises(UpstreamError, match=r"took longer than 0\.05 s"):
                await fetcher.get(issuer.base + "/slow", timeout_s=0.05, allow_http=True)
        async with fetching() as fetcher:
            await refused(fetcher, issuer.base + "/keys", "cannot be fetched")
            await refused(fetcher, "http://[::", "a malformed URL cannot be fetched")

    play(script)


def _certificate(directory: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "key.pem").write_bytes(private)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return server


def test_tls_is_verified_and_never_left(tmp_path: Path) -> None:
    server = _certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))

    async def script() -> None:
        async with served(server) as issuer, served() as plain:
            plain.pages["/keys"] = b"{}"
            issuer.pages |= {"/keys": b"{}", "/down": redirect(plain.base + "/keys")}
            async with fetching() as wary:
                await refused(wary, issuer.base + "/keys", "cannot be fetched", False)
            async with fetching(trusting) as fetcher:
                url = issuer.base + "/keys"
                assert await fetcher.get(url, timeout_s=TIMEOUT_S, allow_http=False) == b"{}"
                # Also where plain HTTP is allowed: what began with TLS stays with it.
                await refused(fetcher, issuer.base + "/down", "is not https")
            assert plain.asked == []

    play(script)


async def _until(ready: Callable[[], bool]) -> None:
    while not ready():  # noqa: ASYNC110  (the ring has no event for tests; the test has a deadline)
        await asyncio.sleep(0)


def test_a_ring_discovers_keeps_and_refreshes_keys() -> None:
    async def script() -> None:
        async with served() as issuer, fetching() as fetcher:
            old, new = signer("ES256", "old"), signer("ES256", "new")
            known = rule(issuer=issuer.base, allow_http=True, timeout_s=TIMEOUT_S)
            broken = rule(jwks_uri=issuer.base + "/gone", allow_http=True, timeout_s=TIMEOUT_S)
            found = {"issuer": issuer.base, "jwks_uri": issuer.base + "/keys"}
            issuer.pages |= {
                "/.well-known/openid-configuration": json.dumps(found).encode(),
                "/keys": jwks(old),
            }
            async with KeyRing(fetcher, random.Random(1)).run() as ring:
                ring.want([location_of(known), location_of(broken)])
                await _until(lambda: ring.keys(known) is not None)
                await _until(lambda: ring.status()[location_of(broken)].failures > 0)
                assert ring.keys(broken) is None, "one bad source does not hold up another"
                judge = Authenticator([known])
                text = token(new, payload(iss=issuer.base))
                request = TokenRequest(headers=bearer(text))
                outcome = judge.authenticate(request, ring.keys, NOW)
                assert isinstance(outcome, Rejected)
                asked = len(issuer.asked)
                assert not await ring.refresh(outcome.refresh), "not so soon after the last one"
                assert len(issuer.asked) == asked
                ring.want([location_of(broken)])
                assert ring.keys(known) is None
                issuer.pages["/keys"] = jwks(old, new)
                ring.want([location_of(known)])
                await _until(lambda: ring.keys(known) is not None)
                outcome = judge.authenticate(request, ring.keys, NOW)
                assert isinstance(outcome, Authenticated)

    play(script)


def test_a_request_waits_for_the_first_fetch() -> None:
    async def script() -> None:
        async with served() as issuer, fetching() as fetcher:
            issuer.slow = asyncio.Event()
            issuer.pages["/slow"] = jwks(signer("ES256", "a"))
            known = rule(jwks_uri=issuer.base + "/slow", allow_http=True, timeout_s=TIMEOUT_S)
            async with KeyRing(fetcher, random.Random(1)).run() as ring:
                ring.want([location_of(known)])
                await _until(lambda: issuer.asked != [])
                async with asyncio.TaskGroup() as tasks:
                    waits = tasks.create_task(ring.refresh([known]))
                    await asyncio.sleep(0)
                    assert not waits.done()
                    issuer.slow.set()
                assert waits.result()
                assert ring.keys(known) is not None

    play(script)


def test_a_ring_that_ends_leaves_nobody_waiting() -> None:
    async def script() -> None:
        async with served() as issuer, fetching() as fetcher:
            issuer.slow = asyncio.Event()
            known = rule(jwks_uri=issuer.base + "/slow", allow_http=True, timeout_s=TIMEOUT_S)
            ring = KeyRing(fetcher, random.Random(1))
            async with asyncio.TaskGroup() as tasks, ring.run():
                ring.want([location_of(known)])
                await _until(lambda: issuer.asked != [])
                waits = tasks.create_task(ring.refresh([known]))
                await asyncio.sleep(0)
            assert waits.done()
            with pytest.raises(RuntimeError):
                ring.want([location_of(known)])

    play(script)
