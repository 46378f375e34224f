"""Outbound capture with real sockets: what reaches ztunnel, and what the application sees."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from agent.capture import cgroup
from tests.netns.capture.world import Node, PodNs, inside, process, run_in, workload

pytestmark = pytest.mark.root

SO_ORIGINAL_DST = 80


def orig_dst(sock: socket.socket, level: int = socket.IPPROTO_IP) -> tuple[str, int]:
    if level == socket.IPPROTO_IP:
        raw = sock.getsockopt(level, SO_ORIGINAL_DST, 16)
        _, port, ip = struct.unpack_from("!HH4s", raw)
        return socket.inet_ntop(socket.AF_INET, ip), port
    raw = sock.getsockopt(level, SO_ORIGINAL_DST, 28)
    _, port, _, ip6 = struct.unpack_from("!HHI16s", raw)
    return socket.inet_ntop(socket.AF_INET6, ip6), port


@pytest.fixture(scope="module")
def listeners(node: Node, pods: list[PodNs]) -> Iterator[dict[str, socket.socket]]:
    """ztunnel's outbound listeners in pod 1, made inside the agent's cgroup."""
    with inside(cgroup.agent_cgroup_path(node.paths)):
        made = {"v4": pods[0].listen("127.0.0.1", 15001), "v6": pods[0].listen("::1", 15001)}
    yield made
    for listener in made.values():
        listener.close()


@pytest.fixture(scope="module")
def captured(
    node: Node, pods: list[PodNs], listeners: dict[str, socket.socket]
) -> Iterator[tuple[Node, PodNs, PodNs]]:
    """Pod 1 is enrolled; pod 2 is a member of the mesh on another node."""
    source, remote = pods[0], pods[1]
    node.local = {source.uid: source.cookie}
    node.apply(workload(source), workload(remote, node="n2"))
    node.enrol(source)
    yield node, source, remote
    node.enrolment.leave(source.cookie, [source.v4, source.v6])


CLIENTS = {
    "blocking": "s = dial(DST, 8080)",
    "non_blocking": """
        import select
        s = socket.socket(); s.setblocking(False)
        assert s.connect_ex((DST, 8080)) == errno.EINPROGRESS
        select.select([], [s], [], 5); assert s.getsockopt(1, 4) == 0
        s.setblocking(True)""",
    "bound_to_pod_ip": """
        s = socket.socket(); s.bind((OWN, 0)); s.connect((DST, 8080))""",
    "bound_to_device": """
        s = socket.socket(); s.setsockopt(1, 25, b"eth0"); s.settimeout(30)
        s.connect((DST, 8080))""",
    "v4_mapped": """
        s = socket.socket(socket.AF_INET6); s.settimeout(30)
        s.connect(("::ffff:" + DST, 8080))""",
    "fastopen": """
        s = socket.socket()
        s.sendto(b"hello", 0x20000000, (DST, 8080))""",
    "mptcp": """
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); s.settimeout(30)
        s.connect((DST, 8080))""",
}


@pytest.mark.parametrize("client", CLIENTS)
def test_every_kind_of_client_is_captured(
    captured: tuple[Node, PodNs, PodNs], listeners: dict[str, socket.socket], client: str
) -> None:
    node, source, remote = captured
    code = f"DST, OWN = {str(remote.v4)!r}, {str(source.v4)!r}\n" + _dedent(CLIENTS[client])
    code += "\nprint(s.getpeername()[:2], flush=True)\nsys.stdin.readline()\n"
    with process(source, node.pods_cgroup, code) as child:
        accepted, _ = listeners["v4"].accept()
        with accepted:
            assert orig_dst(accepted) == (str(remote.v4), 8080)
            assert orig_dst(accepted) == (str(remote.v4), 8080)  # a second question is answered
            assert child.stdout is not None
            seen = child.stdout.readline().strip()
    if client != "mptcp":  # its peer name is that of the subflow
        mapped = "::ffff:" if client == "v4_mapped" else ""
        assert seen == str((f"{mapped}{remote.v4}", 8080))


def test_ipv6_is_captured(
    captured: tuple[Node, PodNs, PodNs], listeners: dict[str, socket.socket]
) -> None:
    node, source, remote = captured
    code = f"""
        s = dial({str(remote.v6)!r}, 8080)
        print(s.getpeername()[:2], flush=True); sys.stdin.readline()"""
    with process(source, node.pods_cgroup, code) as child:
        accepted, _ = listeners["v6"].accept()
        with accepted:
            assert orig_dst(accepted, socket.IPPROTO_IPV6) == (str(remote.v6), 8080)
            assert child.stdout is not None
            assert child.stdout.readline().strip() == str((str(remote.v6), 8080))


def test_dead_ztunnel_refuses(captured: tuple[Node, PodNs, PodNs], pods: list[PodNs]) -> None:
    node, _, remote = captured
    victim = pods[2]
    node.local[victim.uid] = victim.cookie
    node.apply(workload(pods[0]), workload(remote, node="n2"), workload(victim))
    node.enrol(victim)
    code = f"print(errno_of({str(remote.v4)!r}, 8080), errno_of({str(remote.v6)!r}, 8080))"
    assert run_in(victim, node.pods_cgroup, code) == "ECONNREFUSED ECONNREFUSED"
    node.enrolment.leave(victim.cookie, [victim.v4, victim.v6])
    del node.local[victim.uid]


def _dedent(text: str) -> str:
    import textwrap

    return textwrap.dedent(text).strip()
