"""Vending: where sockets live, what they are set to, who may ask, and who can use them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from agent.holder.client import HolderClient
from agent.holder.codec import format_request
from agent.holder.protocol import (
    Close,
    Family,
    HolderError,
    ListPods,
    Open,
    Request,
    SocketKind,
    Vend,
)
from agent.holder.rules import MARK, PRIORITY, TABLE
from agent.holder.wire import receive_packet, send_packet
from agent.netns import socket_netns_cookie
from tests.lab import eventually
from tests.netns.holder.scratch import Holder, Namespace

pytestmark = pytest.mark.root

SO_MARK = 36
CLIENT4, CLIENT6 = "192.0.2.9", "2001:db8::9"
WORKER = Path(__file__).with_name("unprivileged_worker.py")


def ask(channel: socket.socket, data: bytes, *fds: int) -> bytes:
    """One raw exchange; descriptors of the answer are closed."""
    send_packet(channel, data, fds)
    packet = receive_packet(channel, 65536)
    assert packet is not None
    packet.close()
    return packet.data


@pytest.mark.parametrize("family", list(Family))
def test_outbound_sockets(holder: Holder, pod: Namespace, family: Family) -> None:
    with holder.client() as client:
        client.open("pod", pod.fd).close()
        sockets = client.vend("pod", family, SocketKind.OUTBOUND, 32)
    assert len(sockets) == 32
    for sock in sockets:
        with sock:
            assert sock.family == (socket.AF_INET if family is Family.V4 else socket.AF_INET6)
            assert sock.getblocking() is False
            assert socket_netns_cookie(sock) == pod.cookie
            assert sock.getsockopt(socket.SOL_SOCKET, SO_MARK) == 0x53A
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 180
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 180
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 9
            assert sock.getsockopt(socket.SOL_IP, 19) == 0, "not transparent"


def test_inbound_sockets(holder: Holder, pod: Namespace) -> None:
    with holder.client() as client:
        client.open("pod", pod.fd).close()
        v4 = client.vend("pod", Family.V4, SocketKind.INBOUND, 1)[0]
        v6 = client.vend("pod", Family.V6, SocketKind.INBOUND, 1)[0]
    with v4, v6:
        for sock in (v4, v6):
            assert socket_netns_cookie(sock) == pod.cookie
            assert sock.getsockopt(socket.SOL_SOCKET, SO_MARK) == 0x539
            assert sock.getsockopt(socket.SOL_IP, 24) == 1, "port chosen at connect"
        assert v4.getsockopt(socket.SOL_IP, 19) == 1
        assert v6.getsockopt(socket.IPPROTO_IPV6, 75) == 1


def route_borrowed_sources(pod: Namespace) -> None:
    """What enrolment does once per pod; the rules are the holder's."""
    for option, local in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
        pod.command("ip", option, "route", "add", "local", local, "dev", "lo", "table", "100")
    pod.command("sysctl", "-qw", "net.ipv4.tcp_fwmark_accept=1")


def rules(pod: Namespace) -> dict[Family, int]:
    """How many rules for ztunnel's packets there are."""
    found = {}
    for family in Family:
        listing = ["ip", f"-{family.value}", "rule", "list", "fwmark", "0x539"]
        said = pod.run(partial(subprocess.check_output, listing, text=True))
        found[family] = len(said.splitlines())
    return found


def vend_one(client: HolderClient, family: Family, kind: SocketKind) -> None:
    for sock in client.vend("pod", family, kind, 1):
        sock.close()


def test_rules_come_with_the_first_inbound_socket_and_go_with_the_pod(
    holder: Holder, pod: Namespace
) -> None:
    with holder.client() as client:
        client.open("pod", pod.fd).close()
        vend_one(client, Family.V4, SocketKind.OUTBOUND)
        assert rules(pod) == {Family.V4: 0, Family.V6: 0}
        for _ in range(2):
            vend_one(client, Family.V4, SocketKind.INBOUND)
            assert rules(pod) == {Family.V4: 1, Family.V6: 0}
        vend_one(client, Family.V6, SocketKind.INBOUND)
        assert rules(pod) == {Family.V4: 1, Family.V6: 1}
        client.close_pod("pod")
    assert rules(pod) == {Family.V4: 0, Family.V6: 0}


def test_rules_that_are_there_already_stay_alone(holder: Holder, pod: Namespace) -> None:
    """As earlier releases made them, at enrolment."""

    def add() -> None:
        with IPRoute() as ip:
            for family in (socket.AF_INET, socket.AF_INET6):
                ip.rule("add", family=family, fwmark=MARK, table=TABLE, priority=PRIORITY)

    pod.run(add)
    with holder.client() as client:
        client.open("pod", pod.fd).close()
        for family in Family:
            vend_one(client, family, SocketKind.INBOUND)
        assert rules(pod) == {Family.V4: 1, Family.V6: 1}
        client.close_pod("pod")


@pytest.mark.parametrize(
    ("family", "app", "source"), [("4", "127.0.0.1", CLIENT4), ("6", "::1", CLIENT6)]
)
def test_process_without_privilege_borrows_a_clients_address(
    holder: Holder, pod: Namespace, family: str, app: str, source: str
) -> None:
    route_borrowed_sources(pod)
    domain = socket.AF_INET if family == "4" else socket.AF_INET6
    server = pod.run(lambda: socket.create_server((app, 0), family=domain))
    with server, holder.client() as client:
        client.open("pod", pod.fd).close()
        server.settimeout(10)
        with client.into_worker_channel() as channel:
            fd = channel.fileno()
            port = str(server.getsockname()[1])
            worker = subprocess.Popen(
                [sys.executable, str(WORKER), str(fd), family, source, app, port],
                pass_fds=[fd],
                env={"PYTHONPATH": str(Path.cwd())},
            )
        try:
            accepted, peer = server.accept()
            with accepted:
                accepted.settimeout(10)
                assert peer[0] == source
                assert accepted.recv(100) == b"uid 65534"
            assert worker.wait(30.0) == 0
        finally:
            worker.kill()
            worker.wait()


def test_worker_may_not_open_close_list_or_become_node(holder: Holder, pod: Namespace) -> None:
    with holder.client() as node:
        node.open("pod", pod.fd).close()
    forbidden: list[Request] = [Open(uid="x"), Close(uid="pod"), ListPods()]
    with holder.client().into_worker_channel() as channel:
        for request in forbidden:
            answer = ask(channel, format_request(1, request), pod.fd)
            assert b"a worker may not" in answer
        for role in (b"node", b"worker"):
            data = b'{"id":1,"op":"become","role":"%s"}' % role
            assert b"a worker may not" in ask(channel, data)
        worker = HolderClient(channel)
        worker.listeners("pod").close()
        with worker.vend("pod", Family.V4, SocketKind.OUTBOUND, 1)[0] as sock:
            assert socket_netns_cookie(sock) == pod.cookie


def test_given_up_client_is_of_no_use(holder: Holder) -> None:
    client = holder.client()
    with client.into_worker_channel(), pytest.raises(HolderError):
        client.ping()


def test_only_root_may_connect(holder: Holder) -> None:
    code = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setresgid(65534,65534,65534); os.seteuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.settimeout(10)\n"
        "try:\n    s.connect(sys.argv[1])\n"
        "except PermissionError:\n    sys.exit(3)\n"
        "s.send(b'{}') ; sys.exit(4 if s.recv(100) == b'' else 5)\n"
    )
    command = [sys.executable, "-c", code, str(holder.paths.holder_socket)]
    assert subprocess.run(command, timeout=20, check=False).returncode == 3
    # Even if the files' modes were lost, the holder looks at who connects.
    holder.paths.run_dir.chmod(0o755)
    holder.paths.holder_socket.chmod(0o666)
    result = subprocess.run(command, timeout=20, check=False, stderr=subprocess.DEVNULL)
    assert result.returncode in (4, 1), "connection ended (1: reset before the read)"
    with holder.client() as client:
        assert client.ping() == holder.pid


def test_malformed_packets_get_an_error_and_leak_nothing(holder: Holder, pod: Namespace) -> None:
    with holder.client() as client:
        client.open("pod", pod.fd).close()
        client.ping()
        before = holder.fds()
        channel = client._channel
        for data, fds, complaint in (
            (b"\xff\x00", 0, b"not a JSON object"),
            (b"[" * 8000, 0, b"not a JSON object"),
            (b"x" * 9000, 0, b"too large"),
            (b'{"id":1,"op":"ping"}', 100, b"too large"),
            (b'{"id":1,"op":"open","uid":"x"}', 0, b"expected 1 descriptors, got 0"),
            (b'{"id":1,"op":"open","uid":"x"}', 5, b"expected 1 descriptors, got 5"),
            (b'{"id":1,"op":"adopt","uid":"x","listeners":["hbone"]}', 1, b"expected 2"),
            (b'{"id":1,"op":"adopt","uid":"x","listeners":["hbone"]}', 2, b"not a socket"),
            (b'{"id":1,"op":"vend","uid":"x","family":4,"kind":"inbound","count":1}', 0, b"no pod"),
        ):
            answer = ask(channel, data, *[pod.fd] * fds)
            assert complaint in answer, answer
        assert client.ping() == holder.pid
        assert holder.fds() == before


def test_channel_that_never_reads_harms_nobody(holder: Holder, pod: Namespace) -> None:
    with holder.client() as client, holder.client() as deaf:
        client.open("pod", pod.fd).close()
        before = holder.fds()
        vend = Vend(uid="pod", family=Family.V4, kind=SocketKind.OUTBOUND, count=32)
        deaf._channel.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                send_packet(deaf._channel, format_request(1, vend))
        assert client.ping() == holder.pid
        assert holder.fds() <= before + 64
    eventually(lambda: holder.fds() <= before, 30.0, "its descriptors are closed")


def test_descriptors_are_stable_and_vending_is_cheap(holder: Holder, pod: Namespace) -> None:
    with holder.client() as client:
        client.open("pod", pod.fd).close()
        client.vend("pod", Family.V4, SocketKind.OUTBOUND, 1)[0].close()
        client.ping()  # the holder has closed its copies
        before, own_before = holder.fds(), len(os.listdir("/proc/self/fd"))
        start = time.monotonic()
        for number in range(160):
            kind = SocketKind.INBOUND if number % 2 else SocketKind.OUTBOUND
            for sock in client.vend("pod", Family.V6, kind, 32):
                sock.close()
        per_socket_s = (time.monotonic() - start) / (160 * 32)
        client.ping()
        assert holder.fds() == before
        assert len(os.listdir("/proc/self/fd")) == own_before
    assert holder.rss_kib() <= 25 * 1024
    # Some 35 us on an idle machine; the bound is for one that has other work.
    assert per_socket_s < 0.005
