"""Inbound steering and exclusions with real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from agent.capture import cgroup, fsck, inspect
from agent.capture.transparent import prepare_transparent, undo_transparent
from agent.holder.protocol import Family
from agent.holder.rules import add_rule
from agent.netns import call_in_netns
from bpf.layout import ZTUNNEL_MARK
from mesh.model.snapshot import MeshSettings
from mesh.model.workload import Exclusions
from tests.netns.capture.world import Node, PodNs, inside, run_in, workload

pytestmark = pytest.mark.root

SO_MARK, IP_TRANSPARENT = 36, 19


@pytest.fixture
def enrolled(node: Node, pods: list[PodNs]) -> Iterator[tuple[Node, PodNs, PodNs]]:
    """Pod 2 is enrolled; pod 1 is nobody the mesh knows."""
    outsider, pod = pods[0], pods[1]
    node.local = {pod.uid: pod.cookie}
    node.apply(workload(pod))
    node.enrol(pod)
    yield node, outsider, pod
    node.enrolment.leave(pod.cookie, [pod.v4, pod.v6])


def reach(src: PodNs, address: object, port: int) -> str:
    """What an outsider (outside the pods' cgroup) gets: an error name or `connected`."""
    family = socket.AF_INET6 if ":" in str(address) else socket.AF_INET
    with src.tcp(family) as client:
        client.settimeout(30)
        try:
            client.connect((str(address), port))
        except OSError as error:
            return type(error).__name__
    return "connected"


def test_plaintext_reaches_ztunnel_with_its_addresses(
    enrolled: tuple[Node, PodNs, PodNs],
) -> None:
    _, outsider, pod = enrolled
    for address, family in ((pod.v4, socket.AF_INET), (pod.v6, socket.AF_INET6)):
        with outsider.tcp(family) as client:
            client.settimeout(30)
            client.connect((str(address), 4711))  # nobody listens there
            with pod.listeners[address].accept()[0] as accepted:
                assert accepted.getsockname()[:2] == (str(address), 4711)
                assert accepted.getpeername()[:2] == client.getsockname()[:2]


def test_empty_slot_is_refused(enrolled: tuple[Node, PodNs, PodNs]) -> None:
    node, outsider, pod = enrolled
    with pod.listen(str(pod.v4), 8080):
        for listener in pod.listeners.values():
            listener.close()  # the kernel empties the slot by itself
        pod.listeners = {}
        assert reach(outsider, pod.v4, 8080) == "ConnectionRefusedError"
        assert reach(outsider, pod.v6, 8080) == "ConnectionRefusedError"
        findings = fsck.fsck(node.paths.node)
        assert any("no listener" in finding.message for finding in findings)
        node.enrol(pod)
        assert reach(outsider, pod.v4, 8080) == "connected"
        assert not [f for f in fsck.fsck(node.paths.node) if f.severity == "error"]


def test_capture_ports_are_closed_to_others(enrolled: tuple[Node, PodNs, PodNs]) -> None:
    _, outsider, pod = enrolled
    with pod.listen("0.0.0.0", 15001):
        assert reach(outsider, pod.v4, 15001) == "ConnectionRefusedError"
        assert reach(outsider, pod.v4, 15006) == "ConnectionRefusedError"


def test_pod_cannot_dial_the_capture_port(enrolled: tuple[Node, PodNs, PodNs]) -> None:
    node, _, pod = enrolled
    with pod.listen("127.0.0.1", 15001):
        code = "print(errno_of('127.0.0.1', 15001))"
        assert run_in(pod, node.pods_cgroup, code) == "ECONNREFUSED"


def test_hbone_port_is_left_to_its_listener(enrolled: tuple[Node, PodNs, PodNs]) -> None:
    _, outsider, pod = enrolled
    with pod.listen(str(pod.v4), 15008) as hbone, outsider.tcp() as client:
        client.connect((str(pod.v4), 15008))
        with hbone.accept()[0] as accepted:
            assert accepted.getpeername() == client.getsockname()


def test_probe_source_reaches_the_application(enrolled: tuple[Node, PodNs, PodNs]) -> None:
    node, outsider, pod = enrolled
    node.apply(workload(pod), settings=MeshSettings(probe_sources=(outsider.v4,)))
    with pod.listen(str(pod.v4), 8080) as app, outsider.tcp() as client:
        client.connect((str(pod.v4), 8080))
        app.accept()[0].close()


def test_excluded_inbound_port(enrolled: tuple[Node, PodNs, PodNs]) -> None:
    node, outsider, pod = enrolled
    node.apply(workload(pod, exclusions=Exclusions(inbound_ports=frozenset({9090}))))
    with pod.listen(str(pod.v4), 9090) as app, outsider.tcp() as client:
        client.connect((str(pod.v4), 9090))
        app.accept()[0].close()


EXCLUSIONS = {
    "port": Exclusions(outbound_ports=frozenset({8080})),
    "cidr": Exclusions(outbound_cidrs=(IPv4Network("10.98.1.0/24"),)),
    "uid": Exclusions(outbound_uids=frozenset({4242})),
}


@pytest.mark.parametrize("kind", EXCLUSIONS)
def test_outbound_exclusions(enrolled: tuple[Node, PodNs, PodNs], kind: str) -> None:
    node, other, pod = enrolled
    become = "os.setuid(4242)" if kind == "uid" else ""
    code = f"{become}\nprint(errno_of({str(other.v4)!r}, 8080))"
    with other.listen(str(other.v4), 8080):
        # In the mesh on another node: captured, and refused as no ztunnel listens.
        node.apply(workload(pod), workload(other, node="n2"))
        node.enrol(pod)
        assert run_in(pod, node.pods_cgroup, code) == "ECONNREFUSED"
        node.apply(workload(pod, exclusions=EXCLUSIONS[kind]), workload(other, node="n2"))
        assert run_in(pod, node.pods_cgroup, code) == "connected"
        (view,) = inspect.enrolled(node.paths.node)
        assert len(view.flags) == 1


def test_unknown_destination_is_left_alone_and_counted(
    enrolled: tuple[Node, PodNs, PodNs],
) -> None:
    node, other, pod = enrolled
    with other.listen(str(other.v4), 8080):
        code = f"print(errno_of({str(other.v4)!r}, 8080))"
        assert run_in(pod, node.pods_cgroup, code) == "connected"
    rows = [row for row in inspect.stats(node.paths.node) if row.path == "passthrough"]
    assert rows
    assert all(row.dst_workload == 0 for row in rows)


def test_agent_reaches_the_application_as_the_client(
    enrolled: tuple[Node, PodNs, PodNs],
) -> None:
    """ztunnel's inbound leg: marked, from the client's address, made in the agent's cgroup."""
    node, outsider, pod = enrolled
    for _ in range(2):
        prepare_transparent(pod.fd)
        call_in_netns(pod.fd, lambda: add_rule(Family.V4))
    with inside(cgroup.agent_cgroup_path(node.paths)):
        leg = pod.tcp()
    with pod.listen(str(pod.v4), 8080) as app, leg:
        leg.settimeout(30)
        leg.setsockopt(socket.SOL_SOCKET, SO_MARK, ZTUNNEL_MARK)
        leg.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        leg.bind((str(outsider.v4), 0))
        leg.connect((str(pod.v4), 8080))
        with app.accept()[0] as accepted:
            assert accepted.getpeername() == leg.getsockname()
            accepted.sendall(b"hi")
            assert leg.recv(2) == b"hi"
    assert undo_transparent(pod.fd)
    assert not undo_transparent(pod.fd)
