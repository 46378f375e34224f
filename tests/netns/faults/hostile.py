"""A peer outside the mesh that talks to port 15008 of a pod, with any certificate it likes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import hpack
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mesh.identity.state_dir import StateDir
from mesh.model.credentials import Credentials
from tests.lab import Pod
from tests.lab.system import in_netns
from tests.support import raw_h2 as h2
from tests.support.certs import TestCa, spiffe
from tests.support.raw_h2 import RawPeer, raw_peer

HBONE_PORT = 15008
CLIENT = spiffe("client", namespace="default", trust_domain="cluster.local")


class LabCa(TestCa):
    """Signs with the key of a lab's own authority: also what that would never sign."""

    __test__ = False

    def __init__(self, state_dir: Path) -> None:
        state, _ = StateDir(state_dir).load_ca()
        super().__init__(state.trust_domains[0])
        key = load_pem_private_key(state.active.key_pem, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self.root_pem = state.active.signer_pem
        self._name = x509.load_pem_x509_certificate(self.root_pem).subject


def dial(source: Pod, address: str, port: int = HBONE_PORT) -> socket.socket:
    """A connection from the pod's namespace, non-blocking, outside of every cgroup of the lab."""
    sock = in_netns(
        source.place.netns, lambda: socket.create_connection((address, port), timeout=20.0)
    )
    sock.setblocking(False)
    return sock


@contextlib.asynccontextmanager
async def peer(source: Pod, address: str, credentials: Credentials) -> AsyncIterator[RawPeer]:
    """A raw HTTP/2 client that was accepted: the preface is sent, SETTINGS came back."""
    sock = await asyncio.to_thread(dial, source, address)
    async with raw_peer(sock, credentials) as raw:
        raw.write(h2.PREFACE + h2.frame(h2.SETTINGS))
        await raw.wait_frame(h2.SETTINGS)
        yield raw


async def status_of(raw: RawPeer, stream: int, authority: str) -> str:
    """The answer to a CONNECT: a status, or `reset`."""
    fields = ((b":method", b"CONNECT"), (b":authority", authority.encode()))
    raw.write(h2.request(stream, *fields))
    decoder = hpack.Decoder()
    while True:
        kind, _, found, payload = await raw.wait_frame(h2.HEADERS, h2.RST_STREAM, h2.GOAWAY)
        assert kind != h2.GOAWAY
        if kind == h2.HEADERS:
            headers = dict(decoder.decode(payload, raw=True))
            if found == stream:
                return headers[b":status"].decode()
        elif found == stream:
            return "reset"
