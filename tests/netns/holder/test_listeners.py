"""Opening, replacing, adopting and closing a pod's listeners; life of the process."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.holder.client import HolderClient
from agent.holder.daemon import running_pid
from agent.holder.launch import ensure_holder, stop_holder
from agent.holder.protocol import HolderError, HolderLostError, ListenerName
from agent.netns import socket_netns_cookie
from agent.paths import NodePaths
from mesh.errors import KernelError
from tests.lab import eventually
from tests.lab.system import cgroup2_mount
from tests.netns.holder.scratch import Holder, Namespace

pytestmark = pytest.mark.root

PORTS = {
    ListenerName.OUTBOUND4: ("127.0.0.1", 15001),
    ListenerName.OUTBOUND6: ("::1", 15001),
    ListenerName.PLAINTEXT: ("::", 15006),
    ListenerName.HBONE: ("::", 15008),
}


def served(pod: Namespace, listener: socket.socket, host: str, port: int) -> bool:
    """Whether a connection to host and port arrives at this listener."""
    listener.setblocking(True)
    listener.settimeout(10)
    with pod.connect(host, port) as client:
        accepted, peer = listener.accept()
        accepted.close()
        return bool(peer[1] == client.getsockname()[1])


def test_listeners_are_in_the_pods_namespace(holder: Holder, pod: Namespace) -> None:
    with holder.client() as client:
        sockets = client.open("pod", pod.fd)
    assert sockets.cookie == pod.cookie
    assert list(sockets.listeners) == list(PORTS)
    for name, listener in sockets.listeners.items():
        assert socket_netns_cookie(listener) == pod.cookie
        assert listener.getsockname()[:2] == PORTS[name]
        assert listener.getblocking() is False
        assert os.get_inheritable(listener.fileno()) is False
    for host, port, name in (
        ("127.0.0.1", 15001, ListenerName.OUTBOUND4),
        ("::1", 15001, ListenerName.OUTBOUND6),
        ("127.0.0.1", 15006, ListenerName.PLAINTEXT),
        ("::1", 15006, ListenerName.PLAINTEXT),
        ("127.0.0.1", 15008, ListenerName.HBONE),
    ):
        assert served(pod, sockets.listeners[name], host, port), (host, port)
    sockets.close()


def test_namespace_without_ipv6(holder: Holder, pod: Namespace) -> None:
    pod.command("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    with holder.client() as client:
        sockets = client.open("pod", pod.fd)
    assert ListenerName.OUTBOUND6 not in sockets.listeners
    assert served(pod, sockets.listeners[ListenerName.HBONE], "127.0.0.1", 15008)
    sockets.close()


def test_namespace_whose_loopback_is_down(holder: Holder, pod: Namespace) -> None:
    pod.command("ip", "link", "set", "lo", "down")
    with holder.client() as client:
        sockets = client.open("pod", pod.fd)
    pod.command("ip", "link", "set", "lo", "up")
    assert served(pod, sockets.listeners[ListenerName.OUTBOUND4], "127.0.0.1", 15001)
    sockets.close()


def test_open_twice_is_the_same(holder: Holder, pod: Namespace) -> None:
    with holder.client() as client:
        first = client.open("pod", pod.fd)
        second = client.open("pod", f"/proc/{os.getpid()}/fd/{pod.fd}")
        assert len(client.pods()) == 1
    for name, listener in first.listeners.items():
        twin = second.listeners[name]
        assert os.path.samestat(os.fstat(listener.fileno()), os.fstat(twin.fileno()))
    first.close()
    second.close()


def test_same_uid_in_another_namespace_replaces(
    holder: Holder, namespace: Callable[[], Namespace]
) -> None:
    old, new = namespace(), namespace()
    with holder.client() as client:
        client.open("pod", old.fd).close()
        client.open("pod", new.fd).close()
        assert [record.cookie for record in client.pods()] == [new.cookie]
    with pytest.raises(ConnectionRefusedError):
        old.connect("127.0.0.1", 15008)
    new.connect("127.0.0.1", 15008).close()


def test_close_is_idempotent_and_refuses_connections(holder: Holder, pod: Namespace) -> None:
    with holder.client() as client:
        client.open("pod", pod.fd).close()
        client.close_pod("pod")
        client.close_pod("pod")
        assert client.pods() == []
        with pytest.raises(HolderError, match="no pod 'pod' is open"):
            client.listeners("pod")
    with pytest.raises(ConnectionRefusedError):
        pod.connect("127.0.0.1", 15008)


def test_taken_port_is_named_and_nothing_stays(holder: Holder, pod: Namespace) -> None:
    with pod.run(lambda: socket.create_server(("127.0.0.1", 15006))), holder.client() as client:
        client.ping()
        before = holder.fds()
        with pytest.raises(HolderError, match=r"plaintext on port 15006.*in use.*adopt"):
            client.open("pod", pod.fd)
        client.ping()
        assert holder.fds() == before
        assert client.pods() == []
    with pytest.raises(ConnectionRefusedError):
        pod.connect("127.0.0.1", 15001)


def test_namespace_that_is_gone_or_none(holder: Holder, tmp_path: Path) -> None:
    with holder.client() as client, (tmp_path / "file").open("w+") as file:
        with pytest.raises(KernelError, match="No such file"):
            client.open("pod", str(tmp_path / "gone"))
        client.ping()
        before = holder.fds()
        for descriptor in (file.fileno(), os.open("/proc/self/ns/uts", os.O_RDONLY)):
            with pytest.raises(HolderError, match="not a network namespace"):
                client.open("pod", descriptor)
        os.close(descriptor)
        client.ping()
        assert holder.fds() == before


def test_pod_survives_the_deletion_of_its_namespace(holder: Holder, pod: Namespace) -> None:
    name = f"t-holder-{os.getpid()}"
    pod_path = f"/run/netns/{name}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with holder.client() as client:
            client.open("pod", pod_path).close()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    with holder.client() as client:
        client.listeners("pod").close()
        with pytest.raises(KernelError, match="No such file"):
            client.open("pod", pod_path)
        client.close_pod("pod")


def test_pages_of_pods(holder: Holder, pod: Namespace) -> None:
    with holder.client() as client:
        assert client.pods() == []
        client.open("b", pod.fd).close()
        assert [record.uid for record in client.pods()] == ["b"]


def test_listeners_outlive_a_killed_holder(holder: Holder, pod: Namespace) -> None:
    with holder.client() as client:
        kept = client.open("pod", pod.fd)
        waiting = pod.connect("127.0.0.1", 15008)
        holder.kill()
        with pytest.raises(HolderLostError):
            client.ping()
    holder.restart()
    late = pod.connect("127.0.0.1", 15008)
    with holder.client() as client:
        with pytest.raises(HolderError, match="adopt its listeners"):
            client.open("pod", pod.fd)
        adopted = client.adopt("pod", pod.fd, kept.listeners)
        assert adopted.cookie == kept.cookie
        kept.close()
        again = client.adopt("pod", pod.fd, adopted.listeners)
    listener = adopted.listeners[ListenerName.HBONE]
    peers = set()
    for _ in range(2):
        accepted, peer = listener.accept()
        accepted.close()
        peers.add(peer[1])
    assert peers == {waiting.getsockname()[1], late.getsockname()[1]}
    for sockets in (adopted, again):
        sockets.close()
    waiting.close()
    late.close()


def test_adopt_makes_what_is_missing(holder: Holder, pod: Namespace) -> None:
    with holder.client() as client:
        kept = client.open("pod", pod.fd)
        holder.kill()
    holder.restart()
    for name in (ListenerName.PLAINTEXT, ListenerName.OUTBOUND6):
        kept.listeners[name].close()
    left = {name: sock for name, sock in kept.listeners.items() if sock.fileno() >= 0}
    with holder.client() as client:
        adopted = client.adopt("pod", pod.fd, left)
    assert list(adopted.listeners) == list(PORTS)
    kept.close()
    adopted.close()


def test_adopt_checks_what_it_is_given(holder: Holder, namespace: Callable[[], Namespace]) -> None:
    pod, other = namespace(), namespace()
    foreign = other.run(lambda: socket.create_server(("127.0.0.1", 15008)))
    wrong_port = pod.run(lambda: socket.create_server(("127.0.0.1", 0)))
    deaf = pod.run(lambda: socket.socket())
    with holder.client() as client:
        client.ping()
        before = holder.fds()
        for sock, complaint in (
            (foreign, "another network namespace"),
            (wrong_port, "instead of 15008"),
            (deaf, "not a listening TCP socket"),
        ):
            with sock, pytest.raises(HolderError, match=complaint):
                client.adopt("pod", pod.fd, {ListenerName.HBONE: sock})
        client.ping()
        assert holder.fds() == before
        assert client.pods() == []


def test_second_holder_refuses(holder: Holder) -> None:
    command = [sys.executable, "-m", "agent.holder", "--node", holder.paths.node]
    for extra in ([], ["--daemon"]):
        second = subprocess.run(
            [*command, *extra], capture_output=True, text=True, timeout=20, check=False
        )
        assert second.returncode == 1
        assert "already running" in second.stderr
    assert ensure_holder(holder.paths) == holder.pid == running_pid(holder.paths)


def test_files_are_ours_alone_and_go_at_the_end(holder: Holder) -> None:
    paths = holder.paths
    assert stat.S_IMODE(paths.run_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(paths.holder_socket.stat().st_mode) == 0o600
    assert stop_holder(paths) is True
    assert not paths.holder_socket.exists()
    assert not paths.holder_lock.exists()
    assert stop_holder(paths) is False
    with pytest.raises(HolderLostError, match="no holder serves"):
        HolderClient.connect(paths)


def test_stopping_closes_all_listeners(holder: Holder, pod: Namespace) -> None:
    with holder.client() as client:
        client.open("pod", pod.fd).close()
    stop_holder(holder.paths)
    with pytest.raises(ConnectionRefusedError):
        pod.connect("127.0.0.1", 15008)


def test_memory_is_small(holder: Holder, pod: Namespace) -> None:
    with holder.client() as client:
        client.open("pod", pod.fd).close()
    assert holder.rss_kib() <= 25 * 1024


def test_joins_the_given_cgroup(holder: Holder) -> None:
    cgroup = cgroup2_mount() / holder.paths.node
    stop_holder(holder.paths)
    pid = ensure_holder(holder.paths, cgroup=cgroup)
    try:
        assert f"0::/{cgroup.name}" in Path(f"/proc/{pid}/cgroup").read_text().split()
    finally:
        stop_holder(holder.paths)
        eventually(lambda: not (cgroup / "cgroup.procs").read_text(), 30.0, "the cgroup is empty")
        cgroup.rmdir()


def test_cgroup_that_is_none_is_an_error(holder: Holder, tmp_path: Path) -> None:
    stop_holder(holder.paths)
    with pytest.raises(KernelError, match="directory of a cgroup v2 mount"):
        ensure_holder(holder.paths, cgroup=tmp_path / "gone" / "deeper")
    assert running_pid(holder.paths) is None
    assert not holder.paths.holder_socket.exists()


def test_stale_files_of_a_killed_holder_do_not_matter(holder: Holder) -> None:
    holder.kill()
    assert holder.paths.holder_socket.exists()
    assert running_pid(holder.paths) is None
    holder.restart()
    with holder.client() as client:
        assert client.ping() == holder.pid == running_pid(holder.paths)


def test_run_directory_of_somebody_else_is_refused(holder: Holder) -> None:
    stop_holder(holder.paths)
    os.chown(holder.paths.run_dir, 65534, 65534)
    with pytest.raises(KernelError, match="not a directory of our own"):
        ensure_holder(holder.paths)


def test_node_name_of_full_length(holder: Holder, pod: Namespace) -> None:
    paths = NodePaths((f"t-holder-{os.getpid()}-" + "x" * 253)[:253])
    try:
        ensure_holder(paths)
        with HolderClient.connect(paths) as client:
            client.open("pod", pod.fd).close()
    finally:
        stop_holder(paths)
        shutil.rmtree(paths.run_dir, ignore_errors=True)
