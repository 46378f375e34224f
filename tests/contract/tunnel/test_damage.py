"""What clients say, damaged: an engine ends the tunnel or goes on, and serves the next one.

The corpus has conversations of a client behind its SETTINGS, as hexadecimal text. Damage is made
from a seed, so a failure comes back; a conversation that found a defect belongs into the corpus.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from pathlib import Path

import pytest

from mesh.tunnel.contract import StreamRequest, Tunnel, TunnelSettings
from tests.support import raw_h2 as h2
from tests.support.certs import TestCa
from tests.support.raw_h2 import raw_peer
from tests.support.tunnel import (
    CLIENT,
    SERVER,
    EngineFactory,
    StreamLog,
    TunnelLog,
    run,
    tcp_pair,
)

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.hex"))
VARIANTS = 12


def damage(data: bytes, source: random.Random) -> bytes:
    """Flip, cut out, repeat or insert a few bytes."""
    out = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(out))
        match source.randrange(4):
            case 0:
                out[at] ^= 1 << source.randrange(8)
            case 1:
                del out[at : at + source.randint(1, 20)]
            case 2:
                out[at:at] = out[at : at + source.randint(1, 60)]
            case _:
                out[at:at] = source.randbytes(source.randint(1, 20))
        out = out or bytearray(b"\0")
    return bytes(out)


class Accepting(TunnelLog):
    """Accepts every request, with an application that echoes what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: list[socket.socket] = []

    def stream_requested(self, tunnel: Tunnel, request: StreamRequest) -> None:
        near, far = tcp_pair()
        self.sockets.append(near)
        request.accept((), far, StreamLog())


async def converse(factory: EngineFactory, ca: TestCa, said: list[bytes]) -> None:
    """Each of these on a tunnel of its own, to one engine."""
    engine = factory(asyncio.get_running_loop(), TunnelSettings(handshake_timeout_s=5.0))
    logs: list[Accepting] = []
    server, client = ca.issue(SERVER), ca.issue(CLIENT)
    try:
        for data in said:
            near, far = tcp_pair()
            logs.append(Accepting())
            engine.server(far, server, logs[-1])
            async with raw_peer(near, client) as peer:
                peer.write(h2.PREFACE + h2.frame(h2.SETTINGS))
                await logs[-1].up
                with contextlib.suppress(ConnectionError):
                    await peer.send(data)
            await logs[-1].lost
    finally:
        await engine.aclose()
        for log in logs:
            for sock in log.sockets:
                sock.close()


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_damaged_conversations_end(factory: EngineFactory, path: Path) -> None:
    said = bytes.fromhex(path.read_text(encoding="ascii"))
    source = random.Random(path.stem)
    run(converse(factory, TestCa(), [said, *(damage(said, source) for _ in range(VARIANTS)), said]))
