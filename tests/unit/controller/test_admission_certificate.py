"""The webhook's certificate is renewed while it serves: months in virtual time."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from pathlib import Path

from cryptography import x509

from controller.kubernetes.admission import Admission, AdmissionSetup
from mesh.identity.bootstrap import init_ca
from mesh.identity.server_tls import RENEW_AFTER_S, SERVER_LIFETIME_S
from mesh.identity.state_dir import StateDir
from tests.unit.mesh.identity.virtual_time import run_virtual

BEGIN = 1_900_000_000.0
DAY_S = 86400.0


def state_dir(path: Path) -> StateDir:
    return init_ca(path, trust_domain="cluster.local", now=BEGIN, random_bytes=os.urandom)


def shown(tls: ssl.SSLContext) -> x509.Certificate:
    """The certificate that a new connection sees: a handshake in memory."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(down, up)
    server = tls.wrap_bio(up, down, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    der = client.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def root_of(admission: Admission) -> x509.Certificate:
    hooks = admission.configuration()["webhooks"]
    assert isinstance(hooks, list)
    return x509.load_pem_x509_certificate(base64.b64decode(hooks[0]["clientConfig"]["caBundle"]))


def test_it_is_renewed_in_place_long_before_it_ends(tmp_path: Path) -> None:
    setup = AdmissionSetup("system", state_dir(tmp_path / "ca"), 0)

    async def months() -> list[int]:
        loop = asyncio.get_running_loop()
        admission = Admission(
            setup, clock=lambda: BEGIN + loop.time(), random_bytes=os.urandom, check_s=DAY_S
        )
        seen: list[int] = []
        async with asyncio.TaskGroup() as group:
            running = group.create_task(admission.run())
            for _ in range(12):
                await asyncio.sleep(10 * DAY_S)
                certificate = shown(admission.tls)
                left_s = certificate.not_valid_after_utc.timestamp() - BEGIN - loop.time()
                assert left_s > SERVER_LIFETIME_S - RENEW_AFTER_S - 2 * DAY_S
                certificate.verify_directly_issued_by(root_of(admission))
                if certificate.serial_number not in seen:
                    seen.append(certificate.serial_number)
            running.cancel()
        return seen

    assert 4 <= len(run_virtual(months())) <= 5


def test_another_root_gives_another_certificate_and_another_bundle(tmp_path: Path) -> None:
    ca, other = state_dir(tmp_path / "ca"), state_dir(tmp_path / "other")
    setup = AdmissionSetup("system", ca, 0)
    admission = Admission(setup, clock=lambda: BEGIN, random_bytes=os.urandom)
    before = root_of(admission)
    assert not admission.renew_if_due()
    (ca.path / "server.json").write_bytes((other.path / "server.json").read_bytes())
    assert admission.renew_if_due()
    assert root_of(admission) != before
    shown(admission.tls).verify_directly_issued_by(root_of(admission))


def test_a_root_that_cannot_be_read_keeps_the_certificate(tmp_path: Path) -> None:
    ca = state_dir(tmp_path / "ca")
    kept = (ca.path / "server.json").read_bytes()

    async def days() -> None:
        loop = asyncio.get_running_loop()
        admission = Admission(
            AdmissionSetup("system", ca, 0),
            clock=lambda: BEGIN + loop.time(),
            random_bytes=os.urandom,
            check_s=DAY_S,
        )
        first = shown(admission.tls)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(admission.run())
            (ca.path / "server.json").write_bytes(b"{")
            await asyncio.sleep(40 * DAY_S)
            assert shown(admission.tls) == first
            (ca.path / "server.json").write_bytes(kept)
            await asyncio.sleep(2 * DAY_S)
            assert shown(admission.tls) != first
            running.cancel()

    run_virtual(days())
