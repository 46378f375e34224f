"""How fast the connections of a pod may send: `meshnode.io/egress-bandwidth` in the kernel."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from mesh.model.workload import Exclusions, Workload
from tests.netns.capture.world import Node, PodNs, process, run_in, workload

pytestmark = pytest.mark.root

RATE = 400_000
RATE_OF = "sock.getsockopt(socket.SOL_SOCKET, 47) & 0xffffffff"  # SO_MAX_PACING_RATE
UNLIMITED = 0xFFFFFFFF


def paced(pod: PodNs, rate: int | None) -> Workload:
    excluded = Exclusions(inbound_ports=frozenset({9000}))
    return replace(workload(pod, exclusions=excluded), egress_bytes_per_s=rate)


@pytest.fixture
def pair(node: Node, pods: list[PodNs]) -> Iterator[tuple[Node, PodNs, PodNs]]:
    """Pod 1 is enrolled and paced; pod 2 is no member of the mesh."""
    source = pods[0]
    node.local = {source.uid: source.cookie}
    node.apply(paced(source, RATE))
    node.enrol(source)
    yield node, source, pods[1]
    node.enrolment.leave(source.cookie, [source.v4, source.v6])


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_what_a_pod_opens_is_paced(pair: tuple[Node, PodNs, PodNs], family: int) -> None:
    node, source, other = pair
    address = str(other.v4 if family == socket.AF_INET else other.v6)
    with other.listen(address) as listener:
        port = listener.getsockname()[1]
        dial = f"sock = dial('{address}', {port}); print({RATE_OF})"
        assert int(run_in(source, node.pods_cgroup, dial)) == RATE
        node.apply(paced(source, None))
        assert int(run_in(source, node.pods_cgroup, dial)) == UNLIMITED


def test_what_a_pod_accepts_is_paced_and_its_loopback_is_not(
    pair: tuple[Node, PodNs, PodNs],
) -> None:
    node, source, other = pair
    code = f"""
        listener = socket.create_server(("0.0.0.0", 9000))
        print("up", flush=True)
        sock, _ = listener.accept(); print({RATE_OF}, flush=True)
        dial("127.0.0.1", 9000); sock, _ = listener.accept(); print({RATE_OF}, flush=True)
    """
    with process(source, node.pods_cgroup, code) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        with other.tcp() as client:
            client.settimeout(30)
            client.connect((str(source.v4), 9000))
            assert int(child.stdout.readline()) == RATE
            assert int(child.stdout.readline()) == UNLIMITED


def test_bytes_take_their_time(pair: tuple[Node, PodNs, PodNs]) -> None:
    node, source, other = pair
    with other.listen(str(other.v4)) as listener:
        code = f"""
            sock = dial('{other.v4}', {listener.getsockname()[1]})
            sock.sendall(bytes(800_000)); sock.shutdown(socket.SHUT_WR); sock.recv(1)
        """
        with process(source, node.pods_cgroup, code):
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(20)
                began, got = 0.0, 0
                while data := peer.recv(65536):
                    began = began or time.monotonic()
                    got += len(data)
                assert got == 800_000
                # Two seconds; the first window may leave at once.
                assert time.monotonic() - began >= 1.2
