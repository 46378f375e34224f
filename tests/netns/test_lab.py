"""The lab itself: wires, places, captures, and that it clears up after itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.netns import netns_cookie, open_netns
from tests.lab import Lab, LabError, Pod, eventually, sweep
from tests.lab.agent import REPOSITORY
from tests.lab.record import RECORD_ROOT
from tests.lab.system import NETNS_ROOT, cgroup2_mount, start_ticks

pytestmark = pytest.mark.root

SERVER = """
import socket, sys
server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    connection, peer = server.accept()
    with connection:
        data = connection.recv(100)
        print(peer[0], data.decode(), flush=True)
        connection.sendall(data.upper())
"""
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) as connection:
    connection.sendall(sys.argv[3].encode())
    print(connection.recv(100).decode(), end="")
"""
RECEIVE = """
import socket
receiver = socket.socket(type=socket.SOCK_DGRAM)
receiver.bind(("", 53))
print("up", flush=True)
while True:
    print("got", receiver.recvfrom(9), flush=True)
"""
SEND = """
import socket, sys
sender = socket.socket(type=socket.SOCK_DGRAM)
sender.bind((sys.argv[1], 0))
sender.sendto(b"x", (sys.argv[2], 53))
"""
PORT = 8080


def serve(pod: Pod) -> None:
    pod.start([sys.executable, "-c", SERVER, str(PORT)]).wait_listening(PORT)


def ask(pod: Pod, address: str, text: str) -> str:
    argv = [sys.executable, "-c", CLIENT, address, str(PORT), text]
    return pod.run(argv).check().stdout


def test_pods_reach_each_other_on_one_node_and_across(lab: Lab) -> None:
    a, b = lab.node("a"), lab.node("b")
    client, near, far = a.pod("client"), a.pod("near"), b.pod("far")
    serve(near)
    serve(far)
    for server in (near, far):
        assert ask(client, server.address4, "four") == "FOUR"
        assert ask(client, server.address6, "six") == "SIX"


def test_the_server_sees_the_clients_address(lab: Lab) -> None:
    client, server = lab.node("a").pod("client"), lab.node("b").pod("server")
    process = server.start([sys.executable, "-c", SERVER, str(PORT)])
    process.wait_listening(PORT)
    ask(client, server.address4, "x")
    ask(client, server.address6, "y")
    process.wait_output(f"::ffff:{client.address4} x")
    process.wait_output(f"{client.address6} y")


def test_a_node_reaches_its_pods_from_its_gateway_address(lab: Lab) -> None:
    node = lab.node("a")
    pod = node.pod("web")
    process = pod.start([sys.executable, "-c", SERVER, str(PORT)])
    process.wait_listening(PORT)
    node.run([sys.executable, "-c", CLIENT, pod.address4, str(PORT), "probe"]).check()
    process.wait_output(f"::ffff:{node.addresses.gateway4} probe")


def test_a_program_is_in_its_cgroup_and_namespace_before_it_starts(lab: Lab) -> None:
    pod = lab.node("a").pod("p")
    cgroup = pod.run(["cat", "/proc/self/cgroup"]).check().stdout
    assert f"0::/{lab.name}/a/pods/p\n" in cgroup
    inside = pod.run(["readlink", "/proc/self/ns/net"]).check().stdout.strip()
    assert inside == f"net:[{Path(pod.netns_path).stat().st_ino}]"
    # bpffs stays in view, other than under `ip netns exec`.
    assert "bpf" in pod.run(["stat", "-f", "-c", "%T", "/sys/fs/bpf"]).check().stdout


def test_a_program_inherits_no_environment_and_no_descriptor(lab: Lab) -> None:
    pod = lab.node("a").pod("p")
    names = {line.split("=")[0] for line in pod.run(["env"]).check().stdout.splitlines()}
    assert names <= {"PATH", "LANG", "HOME", "PWD", "_", "SHLVL"}
    # 0, 1, 2 and the one that `ls` has open on the directory itself
    assert pod.run(["ls", "/proc/self/fd"]).check().stdout.split() == ["0", "1", "2", "3"]


def test_a_failing_program_is_told_with_what_it_said(lab: Lab) -> None:
    pod = lab.node("a").pod("p")
    with pytest.raises(AssertionError, match=r"ended with 3\n.*oops"):
        pod.run(["sh", "-c", "echo oops >&2; exit 3"]).check()
    with pytest.raises(AssertionError, match="no-such-program: No such file"):
        pod.run(["no-such-program"]).check()
    assert pod.run(["sleep", "60"], timeout_s=0.2).status == -signal.SIGKILL


def test_a_background_program_that_ends_early_is_told(lab: Lab) -> None:
    process = lab.node("a").pod("p").start(["sh", "-c", "echo broken; exit 1"])
    with pytest.raises(AssertionError, match=r"(?s)ended before it listens on 80.*broken"):
        process.wait_listening(80)


def test_the_wire_is_captured_and_a_node_is_not(lab: Lab) -> None:
    a, b = lab.node("a"), lab.node("b")
    client, near, far = a.pod("client"), a.pod("near"), b.pod("far")
    serve(near)
    serve(far)
    with lab.capture() as capture:
        ask(client, far.address4, "across-the-wire")
        ask(client, near.address4, "inside-the-node")
        capture.fence()
        assert capture.contains(b"across-the-wire")
        assert not capture.contains(b"inside-the-node")


def test_objects_describe_the_pods(lab: Lab) -> None:
    pod = lab.node("a").pod("web", namespace="shop", labels={"app": "web"})
    text = (lab.objects.path / "pod-shop-web.yaml").read_text()
    for part in (pod.netns_path, pod.address4, pod.address6, lab.node("a").name, "app: web"):
        assert part in text
    lab.delete("pod-shop-web")
    assert not list(lab.objects.path.iterdir())


def test_strict_reverse_path_filter_stops_a_forged_source(lab: Lab) -> None:
    node = lab.node("a")
    forger, victim, server = node.pod("forger"), node.pod("victim"), node.pod("server")
    forger.run(["ip", "addr", "add", f"{victim.address4}/32", "dev", "lo"]).check()
    process = server.start([sys.executable, "-c", RECEIVE])
    process.wait_output("up")
    forger.run([sys.executable, "-c", SEND, victim.address4, server.address4]).check()
    forger.run([sys.executable, "-c", SEND, forger.address4, server.address4]).check()
    process.wait_output(f"('{forger.address4}'")
    assert f"('{victim.address4}'" not in process.output


def test_namespaces_have_distinct_cookies(lab: Lab) -> None:
    node = lab.node("a")
    cookies = set()
    for pod in (node.pod("p"), node.pod("q")):
        fd = open_netns(pod.netns_path)
        try:
            cookies.add(netns_cookie(fd))
        finally:
            os.close(fd)
    assert len(cookies) == 2


def leftovers(name: str) -> list[str]:
    roots = (NETNS_ROOT, cgroup2_mount(), RECORD_ROOT)
    return [str(path) for root in roots for path in root.glob(f"{name}*")]


def fail_in_a_lab(seen: list[str]) -> None:
    with Lab("gone") as lab:
        process = lab.node("a").pod("p").start(["sleep", "600"])
        seen += [lab.name, str(process.pid)]
        assert len(leftovers(lab.name)) == 5  # wire, node, pod; cgroup; record
        raise RuntimeError("boom")


def test_everything_is_gone_after_the_block_also_after_a_failure() -> None:
    seen: list[str] = []
    with pytest.raises(RuntimeError, match="boom"):
        fail_in_a_lab(seen)
    name, pid = seen
    assert leftovers(name) == []
    assert start_ticks(int(pid)) == 0


KILLED_LAB = """
import os, sys, time
from tests.lab import Lab
lab = Lab("killed").__enter__()
process = lab.node("a").pod("p").start(["sh", "-c", "setsid sleep 600 & echo $!; wait"])
process.wait_output("\\n")
print(lab.name, process.output.strip(), flush=True)
time.sleep(600)
"""


def test_a_killed_run_is_swept_by_the_next_with_its_processes() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED_LAB], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    with child:
        assert child.stdout is not None
        name, orphan = child.stdout.readline().split()
        sweep()  # a living lab is left alone
        assert len(leftovers(name)) == 5
        child.kill()
    assert start_ticks(int(orphan)) != 0
    assert name in sweep()
    assert leftovers(name) == []
    eventually(lambda: start_ticks(int(orphan)) == 0)


def test_a_fixed_name_is_refused_while_its_owner_lives() -> None:
    with Lab("first", name="mnt-fixed-name"), pytest.raises(LabError, match="in use by process"):
        Lab("second", name="mnt-fixed-name").__enter__()
    with Lab("third", name="mnt-fixed-name") as lab:
        assert lab.directory.is_dir()
