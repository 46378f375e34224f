"""Whom each side refuses, before any HTTP/2 byte, and what it says."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from mesh.errors import IdentityError, LocalProtocolError
from mesh.model.credentials import Credentials
from mesh.tunnel.contract import LossReason, TunnelSettings
from mesh.tunnel.tls import build_context
from tests.support.certs import TestCa, spiffe
from tests.support.tunnel import (
    CLIENT,
    SERVER,
    EngineFactory,
    TunnelLog,
    run,
    tcp_pair,
    tunnel_pair,
)

_CA = TestCa()
_OTHER = TestCa("other.local")
_IMPOSTOR = TestCa()  # the right trust domain, another root

_BAD_PEERS = [
    pytest.param(_CA.issue(CLIENT, expired=True), LossReason.TLS, "expired", id="expired"),
    pytest.param(
        _CA.issue(CLIENT, not_yet_valid=True), LossReason.TLS, "not yet valid", id="not-yet-valid"
    ),
    pytest.param(
        _IMPOSTOR.issue(CLIENT, bundle=_CA.bundle()),
        LossReason.TLS,
        "issuer certificate",
        id="unknown-root",
    ),
    pytest.param(
        _CA.issue(spiffe("client", trust_domain="other.local")),
        LossReason.IDENTITY,
        "trust domain other.local",
        id="wrong-trust-domain",
    ),
    pytest.param(
        _CA.issue(CLIENT, uris=(), dns_names=("mesh.local",)),
        LossReason.IDENTITY,
        "no SPIFFE ID",
        id="no-uri",
    ),
    pytest.param(_CA.issue(CLIENT, uris=()), LossReason.IDENTITY, "no SPIFFE ID", id="no-san"),
    pytest.param(
        _CA.issue(CLIENT, uris=("https://mesh.local/",)),
        LossReason.IDENTITY,
        "is not a SPIFFE ID",
        id="other-uri",
    ),
    pytest.param(
        _CA.issue(CLIENT, uris=(str(CLIENT), str(SERVER))),
        LossReason.IDENTITY,
        "2 URI names",
        id="two-identities",
    ),
]


@pytest.mark.parametrize(("bad", "reason", "detail"), _BAD_PEERS)
def test_server_refuses_client(
    factory: EngineFactory, bad: Credentials, reason: LossReason, detail: str
) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            tunnel = pair.connect(client=bad, server=_CA.issue(SERVER))
            loss = await pair.server.lost
            assert loss.reason is reason
            assert detail in loss.detail
            await pair.client.lost
            assert tunnel.peer is None
            assert not pair.client.up.done()
            assert not pair.server.up.done()

    run(main())


@pytest.mark.parametrize(("bad", "reason", "detail"), _BAD_PEERS)
def test_client_refuses_server(
    factory: EngineFactory, bad: Credentials, reason: LossReason, detail: str
) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            pair.connect(client=_CA.issue(CLIENT), server=bad, expected=CLIENT)
            loss = await pair.client.lost
            assert loss.reason is reason
            assert detail in loss.detail
            await pair.server.lost
            assert not pair.client.up.done()
            assert not pair.server.up.done()

    run(main())


def test_client_refuses_an_identity_it_does_not_expect(factory: EngineFactory) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            pair.connect(expected=spiffe("somebody-else"))
            loss = await pair.client.lost
            assert loss.reason is LossReason.IDENTITY
            assert "sa/somebody-else" in loss.detail
            assert str(SERVER) in loss.detail
            await pair.server.lost
            assert not pair.server.up.done()

    run(main())


@pytest.mark.parametrize("side", ["client", "server"])
def test_key_usage_is_checked(factory: EngineFactory, side: str) -> None:
    async def main() -> None:
        usage = {
            "client": ExtendedKeyUsageOID.SERVER_AUTH,
            "server": ExtendedKeyUsageOID.CLIENT_AUTH,
        }[side]
        good = {"client": _CA.issue(CLIENT), "server": _CA.issue(SERVER)}
        identity = {"client": CLIENT, "server": SERVER}[side]
        good[side] = _CA.issue(identity, usages=(usage,))
        async with tunnel_pair(factory) as pair:
            pair.connect(client=good["client"], server=good["server"])
            refusing = pair.server if side == "client" else pair.client
            loss = await refusing.lost
            assert loss.reason is LossReason.TLS
            assert "purpose" in loss.detail

    run(main())


def test_two_trust_domains_of_one_bundle(factory: EngineFactory) -> None:
    async def main() -> None:
        bundle = _CA.bundle(_OTHER)
        client = spiffe("client", trust_domain="other.local")
        async with tunnel_pair(factory) as pair:
            pair.connect(
                client=_OTHER.issue(client, bundle=bundle),
                server=_CA.issue(SERVER, bundle=bundle),
            )
            assert (await pair.server.up).peer == client

    run(main())


def test_client_must_expect_somebody_and_bad_keys_are_refused(factory: EngineFactory) -> None:
    async def main() -> None:
        good = _CA.issue(CLIENT)
        other = _CA.issue(SERVER)
        mixed = Credentials(
            svid=type(good.svid)(
                identity=CLIENT,
                chain_pem=good.svid.chain_pem,
                key_pem=other.svid.key_pem,
                not_before=0,
                not_after=0,
                serial="",
            ),
            bundle=good.bundle,
        )
        engine = factory(asyncio.get_running_loop(), TunnelSettings())
        for credentials, expected, error in (
            (good, frozenset[object](), LocalProtocolError),
            (mixed, frozenset((SERVER,)), IdentityError),
        ):
            near, far = tcp_pair()
            with pytest.raises(error):
                engine.client(near, credentials, expected, TunnelLog())  # type: ignore[arg-type]
            assert near.fileno() == -1
            far.close()
        await engine.aclose()

    run(main())


def _foreign_client(
    credentials: Credentials | None,
    *,
    alpn: list[str] | None = None,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    if credentials is not None:
        context = build_context(credentials, server=False)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    if credentials is None or alpn is not None:
        context.set_alpn_protocols(alpn if alpn is not None else ["h2"])
    return context


@pytest.mark.parametrize(
    ("context", "detail"),
    [
        pytest.param(_foreign_client(None), "sent no certificate", id="no-certificate"),
        pytest.param(
            _foreign_client(_CA.issue(CLIENT), version=ssl.TLSVersion.TLSv1_2),
            "no TLS 1.3",
            id="tls-1.2",
        ),
        pytest.param(
            _foreign_client(_CA.issue(CLIENT), alpn=["http/1.1"]), "ALPN h2", id="other-alpn"
        ),
    ],
)
def test_server_refuses_handshake(
    factory: EngineFactory, context: ssl.SSLContext, detail: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        engine = factory(loop, TunnelSettings())
        near, far = tcp_pair()
        log = TunnelLog()
        engine.server(far, _CA.issue(SERVER), log)
        received = await asyncio.to_thread(_shake_hands_and_read, near, context)
        loss = await log.lost
        assert loss.reason is LossReason.TLS
        assert detail in loss.detail
        assert received == b"", "HTTP/2 before the certificate was verified"
        await engine.aclose()

    run(main())


def _shake_hands_and_read(sock: socket.socket, context: ssl.SSLContext) -> bytes:
    sock.settimeout(30)
    with sock:
        try:
            with context.wrap_socket(sock) as tls:
                tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                return tls.recv(100)
        except (ssl.SSLError, ConnectionError):
            return b""


@pytest.mark.parametrize(
    ("first_bytes", "detail"),
    [
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "plain HTTP"),
        (b"\x00" * 64, "does not speak TLS"),
        (os.urandom(16) * 4, ""),
    ],
)
def test_server_refuses_what_is_not_tls(
    factory: EngineFactory, first_bytes: bytes, detail: str
) -> None:
    async def main() -> None:
        engine = factory(asyncio.get_running_loop(), TunnelSettings(handshake_timeout_s=1))
        near, far = tcp_pair()
        log = TunnelLog()
        engine.server(far, _CA.issue(SERVER), log)
        with near:
            near.send(first_bytes)
            loss = await log.lost
        assert loss.reason in (LossReason.TLS, LossReason.HANDSHAKE_TIMEOUT)
        assert detail in loss.detail
        await engine.aclose()

    run(main())


@pytest.mark.parametrize("as_client", [True, False])
def test_silent_peer_times_out(factory: EngineFactory, as_client: bool) -> None:
    async def main() -> None:
        engine = factory(asyncio.get_running_loop(), TunnelSettings(handshake_timeout_s=0.1))
        near, far = tcp_pair()
        log = TunnelLog()
        if as_client:
            engine.client(far, _CA.issue(CLIENT), frozenset((SERVER,)), log)
        else:
            engine.server(far, _CA.issue(SERVER), log)
        with near:
            assert (await log.lost).reason is LossReason.HANDSHAKE_TIMEOUT
        await engine.aclose()

    run(main())


@pytest.mark.root
def test_keys_load_after_privileges_were_dropped() -> None:
    credentials = _CA.issue(CLIENT)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            build_context(credentials, server=True)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_both_sides_know_until_when_the_peer_has_proved_itself(factory: EngineFactory) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            credentials = pair.ca.issue(CLIENT), pair.ca.issue(SERVER)
            tunnel = pair.connect(client=credentials[0], server=credentials[1])
            assert tunnel.peer_expires_at == 0
            # A certificate's dates have whole seconds.
            ends = [int(c.svid.not_after) for c in credentials]
            assert int((await pair.server.up).peer_expires_at) == ends[0]
            assert int((await pair.client.up).peer_expires_at) == ends[1]

    run(main())
