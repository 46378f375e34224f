"""What happens to a connection's two directions: half-close, reset, refusal, volume, pressure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab import eventually
from tests.netns.mesh.apps.serve import DIGEST, PRODUCE, RESET, SPEAK_FIRST, STALL
from tests.netns.mesh.world import Mesh, last_answer, status

pytestmark = pytest.mark.root

CLOSED_PORT = 7999
MIB = 1 << 20
ROUTES = [("client", "far"), ("client", "near"), ("outsider", "far")]
"""Tunnelled, direct, plaintext relayed by the destination's ztunnel."""


@pytest.mark.parametrize(("src", "dst"), ROUTES)
def test_client_ends_writing_and_reads_on(mesh: Mesh, src: str, dst: str) -> None:
    answer = mesh.dial(src, dst, DIGEST, do="upload", count=100_000)
    assert answer["answer"] == answer["wanted"]


@pytest.mark.parametrize(("src", "dst"), ROUTES)
def test_server_ends_writing_and_reads_on(mesh: Mesh, src: str, dst: str) -> None:
    answer = mesh.dial(src, dst, PRODUCE, do="download", count=100_000)
    assert answer["received"] == 100_000
    assert answer["intact"] is True
    mesh.apps[dst].wait_output(f"{PRODUCE} {mesh[src].address4} eof after {len(b'still here')}")


@pytest.mark.parametrize(("src", "dst"), ROUTES)
def test_reset_by_the_server_reaches_the_client(mesh: Mesh, src: str, dst: str) -> None:
    assert mesh.dial(src, dst, RESET, do="expect_reset")["ended"] == "reset"


@pytest.mark.parametrize(("src", "dst"), ROUTES)
def test_reset_by_the_client_reaches_the_server(mesh: Mesh, src: str, dst: str) -> None:
    outcome = f"{SPEAK_FIRST} {mesh[src].address4} ConnectionResetError"
    before = mesh.apps[dst].output.count(outcome)
    mesh.dial(src, dst, SPEAK_FIRST, do="send_reset")
    eventually(lambda: mesh.apps[dst].output.count(outcome) == before + 1)


@pytest.mark.parametrize(("src", "dst"), ROUTES)
def test_a_refusal_is_a_failure_at_once(mesh: Mesh, src: str, dst: str) -> None:
    """Nobody listens: a direct client is refused; through ztunnel the handshake with ztunnel has
    succeeded by then, so the client sees a reset instead."""
    answer = mesh.dial(src, dst, CLOSED_PORT, do="one_byte")
    assert answer["error"] == ("ECONNREFUSED" if dst == "near" else "ECONNRESET")
    side = "outbound" if dst == "near" else "inbound"
    address = f"{mesh[dst].address4}:{CLOSED_PORT}"
    mesh.record(src_workload=src, dst_addr=address, direction=side, flag="CONNECT")


def test_a_pod_that_drops_everything_fails_after_the_connect_timeout(mesh: Mesh) -> None:
    """The address of a pod that is published and does not exist: an error, not a hang."""
    mesh.apply("ghost", GHOST)
    answer = mesh.dial("client", "10.40.2.200", do="one_byte", timeout=50)
    assert answer["error"] in ("ECONNRESET", "EHOSTUNREACH")
    mesh.delete("ghost")


GHOST = """
apiVersion: meshnode.io/v1alpha1
kind: Workload
metadata: {name: ghost, namespace: default, labels: {meshnode.io/dataplane: enabled}}
spec: {addresses: [10.40.2.200], node: elsewhere}
"""


@pytest.mark.parametrize("src", ["client", "outsider"])
def test_a_large_upload_arrives_whole(mesh: Mesh, src: str) -> None:
    answer = mesh.dial(src, "far", DIGEST, do="upload", count=64 * MIB)
    assert answer["answer"] == answer["wanted"]


@pytest.mark.parametrize("src", ["client", "outsider"])
def test_a_large_download_arrives_whole(mesh: Mesh, src: str) -> None:
    answer = mesh.dial(src, "far", PRODUCE, do="download", count=64 * MIB)
    assert answer["received"] == 64 * MIB
    assert answer["intact"] is True


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["upload", "download"])
def test_a_gigabyte(mesh: Mesh, direction: str) -> None:
    port = DIGEST if direction == "upload" else PRODUCE
    answer = mesh.dial(
        "client", "far", port, do=direction, count=10**9, timeout=60, timeout_s=110.0
    )
    print(f"{direction} of 1 GB: {answer['seconds']} s")
    if direction == "upload":
        assert answer["answer"] == answer["wanted"]
    else:
        assert answer["received"] == 10**9
        assert answer["intact"] is True


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("src", ["client", "outsider"])
def test_a_reader_that_stops_makes_the_writer_wait(mesh: Mesh, src: str) -> None:
    """Four such writers: what they may write is bounded by socket buffers and one window of 4 MiB
    each, and so is the memory of the workers of both nodes. Then all bytes arrive."""
    workers = [worker.pid for agent in mesh.agents for worker in status(agent).workers]
    before = sum(map(rss_bytes, workers))
    writers = [
        mesh.start_dial(src, mesh["far"].address4, STALL, kind="blocking", do="fill", timeout=60)
        for _ in range(4)
    ]
    for writer in writers:
        writer.wait_output("blocked_after", 40.0)
    grown = sum(map(rss_bytes, workers)) - before
    written = [int(str(last_answer(writer.output)["blocked_after"])) for writer in writers]
    print(f"{src}: writers blocked after {written} bytes, workers grew by {grown} bytes")
    assert max(written) < 40 * MIB
    assert grown < 4 * 3 * 4 * MIB
    mesh["far"].run(["python3", "-c", RING]).check()
    for writer in writers:
        answer = last_answer(writer.wait(40.0).check().stdout)
        assert answer["answer"] == answer["wanted"]
    mesh.restart_app("far")


RING = f"""
import socket
socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"x", ("::1", {STALL}))
"""
