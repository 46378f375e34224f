"""Two pods of one node: direct with a grant, denied at connect, or through ztunnel."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.capture import inspect
from agent.capture.flows import OpenFlow, destroy_flow, list_flows
from agent.capture.ringbuf import RingReader
from agent.capture.telemetry import (
    ClosedConnection,
    DeniedConnect,
    KernelEvent,
    TrafficReader,
    decode_event,
)
from agent.netns import call_in_netns
from bpf.layout import PathKind, Reason
from mesh.model.kernel import KernelPolicy, KernelVerdict
from mesh.model.snapshot import MeshSettings, SameNode
from mesh.model.workload import Exclusions
from tests.netns.capture.world import (
    Node,
    PodNs,
    eventually,
    process,
    run_in,
    service,
    verdicts,
    workload,
)

pytestmark = pytest.mark.root

ALLOW, DENY, PROXY = KernelVerdict.ALLOW, KernelVerdict.DENY, KernelVerdict.PROXY


class Echo:
    """A server of the pod's application that answers with its name and what it got."""

    def __init__(self, pod: PodNs, address: str, port: int, name: str = "app") -> None:
        self.listener = pod.listen(address, port)
        self._name = name.encode()
        self._thread = threading.Thread(target=self._serve, name="echo")
        self._thread.start()

    def _serve(self) -> None:
        self.listener.settimeout(None)
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with peer, contextlib.suppress(ConnectionError):
                peer.sendall(self._name)
                while data := peer.recv(65536):
                    peer.sendall(data)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join()


@pytest.fixture(scope="module")
def pair(node: Node, pods: list[PodNs]) -> Iterator[tuple[Node, PodNs, PodNs]]:
    """Pods 1 and 2 are enrolled on this node; pod 2 serves port 8080 on all its addresses."""
    src, dst = pods[0], pods[1]
    node.local = {src.uid: src.cookie, dst.uid: dst.cookie}
    node.apply(workload(src), workload(dst))
    node.enrol(src, dst)
    servers = [Echo(dst, "0.0.0.0", 8080), Echo(dst, "::", 8080)]
    yield node, src, dst
    for server in servers:
        server.close()
    for pod in (src, dst):
        node.enrolment.leave(pod.cookie, [pod.v4, pod.v6])


def apply(pair: tuple[Node, PodNs, PodNs], policy: KernelPolicy, **more: MeshSettings) -> None:
    node, src, dst = pair
    node.apply(workload(src), workload(dst), policy=policy, settings=more.get("settings"))


TALK = """
    s = dial({dst!r}, {port})
    assert s.recv(3) == b"app", "wrong server"
    s.sendall(b"x" * 1000); got = b""
    while len(got) < 1000: got += s.recv(65536)
    print(s.getpeername()[0])
"""


def drain(reader: RingReader) -> list[KernelEvent]:
    return [decode_event(record) for record in reader.read()]


@pytest.mark.parametrize("family", ["v4", "v6", "mapped"])
def test_allowed_pair_talks_directly(pair: tuple[Node, PodNs, PodNs], family: str) -> None:
    node, src, dst = pair
    apply(pair, verdicts((src, dst, 8080, ALLOW)))
    address = {"v4": str(dst.v4), "v6": str(dst.v6), "mapped": f"::ffff:{dst.v4}"}[family]
    traffic = TrafficReader(node.maps["mn_stats"])
    traffic.read()
    reader = RingReader(node.maps["mn_events"])
    drain(reader)
    assert run_in(src, node.pods_cgroup, TALK.format(dst=address, port=8080)) == address
    eventually(lambda: not list_flows(node.maps))
    assert not list(node.maps["mn_grant"].keys())
    events = drain(reader)
    reader.close()
    ((key, delta),) = traffic.read().items()
    assert (key.path, key.port) == (PathKind.DIRECT, 8080)
    assert (delta.opened, delta.closed, delta.failed) == (1, 1, 0)
    assert (delta.bytes_sent, delta.bytes_received) == (1000, 1003)
    (closed,) = events
    assert isinstance(closed, ClosedConnection)
    assert (closed.path, closed.bytes_sent, closed.bytes_received) == (PathKind.DIRECT, 1000, 1003)
    assert closed.src.ip in (src.v4, src.v6)


@pytest.mark.parametrize("first", ["client", "half", "server"])
def test_bytes_are_counted_whoever_ends_it(pair: tuple[Node, PodNs, PodNs], first: str) -> None:
    node, src, dst = pair
    apply(pair, verdicts((src, dst, 0, ALLOW)))
    traffic = TrafficReader(node.maps["mn_stats"])
    traffic.read()
    code = f"""
        s = dial({str(dst.v4)!r}, 8082 if {first!r} == "server" else 8080)
        if {first!r} != "server": s.sendall(b"x" * 1000)
        if {first!r} == "half": s.shutdown(socket.SHUT_WR)
        got = b""
        while {first!r} != "client" or len(got) < 1003:
            data = s.recv(65536)
            if not data: break
            got += data
        s.close(); print(len(got))"""
    with dst.listen(str(dst.v4), 8082) as greeter:
        thread = threading.Thread(target=_greet_and_leave, args=(greeter, first == "server"))
        thread.start()
        received = int(run_in(src, node.pods_cgroup, code))
        thread.join()
    eventually(lambda: not list_flows(node.maps))
    ((_, delta),) = traffic.read().items()
    assert (delta.opened, delta.closed, delta.failed) == (1, 1, 0)
    assert (delta.bytes_sent, delta.bytes_received) == (0 if first == "server" else 1000, received)


def _greet_and_leave(listener: socket.socket, wanted: bool) -> None:
    """A server that ends the connection first."""
    if wanted:
        listener.settimeout(20)
        with listener.accept()[0] as peer:
            peer.sendall(b"bye")


def test_socket_dials_again(pair: tuple[Node, PodNs, PodNs]) -> None:
    """What an earlier connect() of the socket left behind decides nothing."""
    node, src, dst = pair
    policy = verdicts((src, dst, 0, ALLOW), (src, dst, 9998, PROXY))
    apply(pair, policy)
    traffic = TrafficReader(node.maps["mn_stats"])
    traffic.read()
    before = reason_counts(node)
    code = f"""
        s = socket.socket()
        for port in (9997, 9998, 9997):
            try: s.connect(({str(dst.v4)!r}, port))
            except ConnectionRefusedError: print(port)
        s.connect(({str(dst.v4)!r}, 8080)); assert s.recv(3) == b"app"; s.close()"""
    assert run_in(src, node.pods_cgroup, code).split() == ["9997", "9998", "9997"]
    eventually(lambda: not list_flows(node.maps))
    after = reason_counts(node)
    assert after["granted"] == before["granted"] + 3
    assert after["captured"] == before["captured"] + 1
    told = {(key.path, key.port): delta for key, delta in traffic.read().items()}
    assert {at: (delta.closed, delta.failed) for at, delta in told.items()} == {
        (PathKind.DIRECT, 8080): (1, 0),
        (PathKind.DIRECT, 9997): (0, 2),
    }


def test_excluded_connection_has_no_grant(pair: tuple[Node, PodNs, PodNs]) -> None:
    """Nothing is decided about it, so policy lets it in no sooner than plaintext from anywhere."""
    node, src, dst = pair
    excluding = replace(workload(src), exclusions=Exclusions(outbound_ports=frozenset({8080})))
    node.apply(excluding, workload(dst), policy=verdicts((src, dst, 0, ALLOW)))
    node.enrol(src)
    before = reason_counts(node)
    run_in(src, node.pods_cgroup, f"print(errno_of({str(dst.v4)!r}, 8080))")
    talk = TALK.format(dst=str(dst.v4), port=8081)
    second = Echo(dst, str(dst.v4), 8081)
    try:
        assert run_in(src, node.pods_cgroup, talk) == str(dst.v4)
    finally:
        second.close()
        node.apply(workload(src), workload(dst))
        node.enrol(src)
    after = reason_counts(node)
    assert after["pass_excluded_port"] == before["pass_excluded_port"] + 1
    assert after["granted"] == before["granted"] + 1
    assert after["in_ztunnel"] == before["in_ztunnel"] + 1


def test_denied_pair_is_refused_with_a_reason(pair: tuple[Node, PodNs, PodNs]) -> None:
    node, src, dst = pair
    apply(pair, verdicts((src, dst, 8080, DENY), (src, dst, 0, ALLOW)))
    reader = RingReader(node.maps["mn_events"])
    drain(reader)
    code = f"print(errno_of({str(dst.v4)!r}, 8080), errno_of({str(dst.v6)!r}, 8080))"
    assert run_in(src, node.pods_cgroup, code) == "ECONNREFUSED ECONNREFUSED"
    events = drain(reader)
    reader.close()
    assert [type(event) for event in events] == [DeniedConnect, DeniedConnect]
    denied = events[0]
    assert isinstance(denied, DeniedConnect)
    assert (denied.reason, denied.policy_reason) == (Reason.DENY_POLICY, 7)
    assert (denied.dialled.ip, denied.dialled.port) == (dst.v4, 8080)


def test_verdict_for_every_other_port(pair: tuple[Node, PodNs, PodNs]) -> None:
    node, src, dst = pair
    apply(pair, verdicts((src, dst, 80, DENY), (src, dst, 0, ALLOW)))
    talk = TALK.format(dst=str(dst.v4), port=8080)
    assert run_in(src, node.pods_cgroup, talk) == str(dst.v4)


@pytest.mark.parametrize("why", ["no_verdict", "proxy_verdict", "encrypt"])
def test_undecided_pair_goes_to_ztunnel(pair: tuple[Node, PodNs, PodNs], why: str) -> None:
    node, src, dst = pair
    policy = verdicts((src, dst, 9, ALLOW))
    settings = MeshSettings()
    if why == "proxy_verdict":
        policy = verdicts((src, dst, 8080, PROXY))
    if why == "encrypt":
        policy = verdicts((src, dst, 0, ALLOW))
        settings = MeshSettings(same_node=SameNode.ENCRYPT)
    apply(pair, policy, settings=settings)
    # ztunnel's outbound listener does not exist here: refused, and not by the application.
    code = f"print(errno_of({str(dst.v4)!r}, 8080))"
    before = reason_counts(node)
    assert run_in(src, node.pods_cgroup, code) == "ECONNREFUSED"
    assert reason_counts(node)["captured"] == before["captured"] + 1


def reason_counts(node: Node) -> dict[str, int]:
    return {view.reason: view.count for view in inspect.drops(node.paths.node)}


def test_policy_change_reaches_an_open_connection(pair: tuple[Node, PodNs, PodNs]) -> None:
    node, src, dst = pair
    apply(pair, verdicts((src, dst, 8080, ALLOW)))
    code = f"""
        s = dial({str(dst.v4)!r}, 8080); s.recv(3)
        print("up", flush=True)
        try: s.recv(1)
        except OSError as e: print(errno.errorcode[e.errno])"""
    listening = listeners(dst)
    with process(src, node.pods_cgroup, code) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "up"
        (flow,) = list_flows(node.maps)
        assert isinstance(flow, OpenFlow)
        assert (flow.dst.ip, flow.dst.port, flow.netns_cookie) == (dst.v4, 8080, src.cookie)
        assert (flow.src_class, flow.dst_class) == (src.number, dst.number)
        assert destroy_flow(flow, src.fd, dst.fd)
        assert child.stdout.readline().strip() == "ECONNABORTED"
    assert list_flows(node.maps) == []
    assert not destroy_flow(flow, src.fd, dst.fd)
    # The kernel's lookup of a connection that has gone goes on to listeners: those must live.
    assert listeners(dst) == listening


def listeners(pod: PodNs) -> list[str]:
    """Listening sockets of a pod's namespace: local address and inode."""

    def read() -> list[str]:
        lines = [
            line.split()
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/thread-self/net/{name}").read_text().splitlines()[1:]
        ]
        return sorted(f"{line[1]} {line[9]}" for line in lines if line[3] == "0A")

    return call_in_netns(pod.fd, read)


def test_cluster_ip_is_spread_and_hidden(pair: tuple[Node, PodNs, PodNs]) -> None:
    node, src, dst = pair
    second = Echo(dst, str(dst.v4), 8081, name="two")
    node.apply(
        workload(src),
        workload(dst),
        services=(service(["10.96.0.10"], 80, [(dst.v4, 8080), (dst.v4, 8081)]),),
        policy=verdicts((src, dst, 0, ALLOW)),
    )
    code = """
        seen = {}
        for _ in range(60):
            s = dial("10.96.0.10", 80)
            assert s.getpeername() == ("10.96.0.10", 80)
            name = s.recv(3).decode(); seen[name] = seen.get(name, 0) + 1
            s.close()
        print(sorted(seen), min(seen.values()) > 10)"""
    assert run_in(src, node.pods_cgroup, code) == "['app', 'two'] True"
    second.close()


def test_service_without_endpoints_is_refused(pair: tuple[Node, PodNs, PodNs]) -> None:
    node, src, dst = pair
    node.apply(workload(src), workload(dst), services=(service(["10.96.0.11"], 80, []),))
    before = reason_counts(node)
    code = "print(errno_of('10.96.0.11', 80))"
    assert run_in(src, node.pods_cgroup, code) == "ECONNREFUSED"
    assert reason_counts(node)["deny_no_endpoint"] == before["deny_no_endpoint"] + 1


def test_pod_reaches_itself(pair: tuple[Node, PodNs, PodNs]) -> None:
    node, _, dst = pair
    node.apply(
        workload(dst),
        services=(service(["10.96.0.12"], 80, [(dst.v4, 8080)]),),
    )
    for address, port in ((str(dst.v4), 8080), ("127.0.0.1", 8080), (str(dst.v6), 8080)):
        assert run_in(dst, node.pods_cgroup, TALK.format(dst=address, port=port)) == address
    hairpin = TALK.format(dst="10.96.0.12", port=80)
    assert run_in(dst, node.pods_cgroup, hairpin) == "10.96.0.12"


def test_nothing_piles_up(pair: tuple[Node, PodNs, PodNs]) -> None:
    node, src, dst = pair
    apply(pair, verdicts((src, dst, 0, ALLOW)))
    before = reason_counts(node)
    code = f"""
        for i in range(300):
            s = dial({str(dst.v4)!r}, 8080)
            if i % 3 == 0: s.setsockopt(1, 13, struct.pack("ii", 1, 0))  # ends with a reset
            s.close()
        print(errno_of({str(dst.v4)!r}, 9999))"""
    assert run_in(src, node.pods_cgroup, code) == "ECONNREFUSED"
    eventually(lambda: not list_flows(node.maps))
    assert not list(node.maps["mn_grant"].keys())
    counts = reason_counts(node)
    assert counts["granted"] == before["granted"] + 301
    # A late packet of a connection that was reset is looked up like a new one.
    assert counts["in_granted"] >= before["in_granted"] + 301
    row = next(row for row in inspect.stats(node.paths.node) if row.port == 9999)
    assert (row.opened, row.failed) == (0, 1)
