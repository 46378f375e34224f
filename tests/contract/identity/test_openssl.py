"""Issued chains under OpenSSL's own eyes."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from mesh.identity.ca import CaSettings
from mesh.identity.csr import new_request
from mesh.identity.roots import CaState, activate_next, publish_root
from tests.unit.mesh.identity.builders import NODE, authority, ca_state, root, spiffe


def verify(state: CaState, chain_pem: bytes, tmp_path: Path, purpose: str) -> str:
    (tmp_path / "roots.pem").write_bytes(state.bundle.roots_pem)
    (tmp_path / "leaf.pem").write_bytes(chain_pem)
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose]
    command += ["-CAfile", str(tmp_path / "roots.pem"), str(tmp_path / "leaf.pem")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("purpose", ["sslclient", "sslserver"])
def test_a_chain_verifies_and_goes_on_verifying_through_a_rotation(
    tmp_path: Path, purpose: str
) -> None:
    now = time.time()
    first = ca_state(now)
    core = authority(CaSettings())
    old = core.sign(first, new_request(spiffe()).csr_pem, node=NODE, now=now)
    second = activate_next(publish_root(first, root(now), now), now)
    new = core.sign(second, new_request(spiffe()).csr_pem, node=NODE, now=now)
    assert verify(first, old.chain_pem, tmp_path, purpose).endswith("OK\n")
    assert verify(second, old.chain_pem, tmp_path, purpose).endswith("OK\n")
    assert verify(second, new.chain_pem, tmp_path, purpose).endswith("OK\n")
    assert "OK" not in verify(first, new.chain_pem, tmp_path, purpose)


def test_openssl_reads_our_signing_request(tmp_path: Path) -> None:
    (tmp_path / "csr.pem").write_bytes(new_request(spiffe()).csr_pem)
    command = ["openssl", "req", "-in", str(tmp_path / "csr.pem"), "-noout", "-text", "-verify"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"URI:{spiffe()}" in done.stdout
    assert "X509v3 Subject Alternative Name: critical" in done.stdout
