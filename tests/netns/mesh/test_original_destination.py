"""Two captured connections with one source port keep their own destinations."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import Pod
from tests.netns.mesh.world import Mesh, status

pytestmark = pytest.mark.root

BOTH = """
import socket, sys
socks = []
for source, target in zip(sys.argv[1::2], sys.argv[2::2]):
    sock = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((source, 34567))
    sock.settimeout(25)
    sock.connect((target, 7000))
    socks.append(sock)
print("connected", flush=True)
for sock in socks:
    print("got", sock.recv(100).decode().split()[0], flush=True)
"""


@contextmanager
def stopped_workers(mesh: Mesh) -> Iterator[None]:
    """Nobody accepts while the block runs, so that connections wait side by side."""
    pids = [worker.pid for worker in status(mesh.agents[0]).workers]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def ask_both(mesh: Mesh, client: Pod, *argv: str) -> list[str]:
    with stopped_workers(mesh):
        process = client.start([sys.executable, "-I", "-S", "-c", BOTH, *argv])
        process.wait_output("connected")
    output = process.wait().check().stdout
    return [line.removeprefix("got ") for line in output.splitlines()[1:]]


def test_families_share_a_port(mesh: Mesh) -> None:
    client = mesh["client"]
    mesh.add_pod(mesh.b, "other")
    mesh.lab.settle()
    pairs = [client.address4, mesh["far"].address4, client.address6, mesh["other"].address6]
    assert ask_both(mesh, client, *pairs) == ["far", "other"]
    pairs = [client.address4, mesh["far"].address4, "127.0.0.1", mesh["other"].address4]
    assert ask_both(mesh, client, *pairs) == ["far", "other"]
