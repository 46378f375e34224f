"""A cluster of two nodes: a label takes running pods in, and its removal lets them go."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.kube.fake_node import SYSTEM, ControlPlane, FakeNode, KubePod
from tests.lab import Lab, eventually

pytestmark = pytest.mark.root

SERVER = """
import socket, socketserver, sys
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads = True, True
Server(("", int(sys.argv[1])), Echo).serve_forever()
"""
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as connection:
    connection.sendall(sys.argv[3].encode())
    print(connection.recv(1000).decode(), end="")
"""
STAY = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) as connection:
    number = 0
    while True:
        number += 1
        connection.sendall(b"%d" % number)
        assert connection.recv(100) == b"%d" % number
        print(f"kept {number}", flush=True)
        time.sleep(0.05)
"""
PORT = 8080


def namespace(name: str, **labels: str) -> Mapping[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {f"meshnode.io/{k}": v for k, v in labels.items()}},
    }


class Cluster:
    """Two nodes with agents, a pod on each."""

    def __init__(self, lab: Lab, plane: ControlPlane) -> None:
        self.lab = lab
        self.plane = plane
        plane.apply(namespace("shop"), namespace(SYSTEM))
        self.a, self.b = (FakeNode(lab, lab.node(name), plane) for name in ("a", "b"))
        self.client = self.a.pod("shop", "client")
        self.server = self.b.pod("shop", "server")
        self.server.start([sys.executable, "-c", SERVER, str(PORT)]).wait_listening(PORT)

    def ask(self, text: str, *, by: KubePod | None = None) -> str:
        argv = [sys.executable, "-c", ASK, self.server.address, str(PORT), text]
        return (by or self.client).run(argv).check().stdout

    def remove(self, pod: KubePod) -> None:
        """End a pod of either node."""
        spec = pod.manifest["spec"]
        assert isinstance(spec, dict)
        node = self.a if spec["nodeName"] == self.a.node.name else self.b
        node.remove(pod)

    def state(self, name: str) -> str:
        """What the pod's annotation says of it."""
        meta = self.plane.get("pods", "shop", name)["metadata"]
        assert isinstance(meta, dict)
        return str(meta.get("annotations", {}).get("meshnode.io/enrolment", ""))

    def wait_states(self, state: str) -> None:
        eventually(
            lambda: [self.state(name) for name in ("client", "server")] == [state, state],
            60.0,
            f"both pods are {state or 'out of the mesh'}",
        )

    def is_on_the_wire(self, text: str) -> bool:
        """Whether a request can be read between the nodes."""
        with self.lab.capture() as capture:
            assert self.ask(text) == text
            capture.fence()
            return capture.contains(text.encode())


@contextmanager
def cluster() -> Iterator[Cluster]:
    with Lab("enrol") as lab:
        for name in ("a", "b"):
            lab.node(name)
        with ControlPlane(lab, lab.node("control")).running() as plane:
            made = Cluster(lab, plane)
            made.a.agent()
            made.b.agent()
            yield made
            for node in (made.a, made.b):
                if node.node.running_agent is not None:
                    node.node.running_agent.stop()


@pytest.mark.slow
def test_a_label_takes_running_pods_in_and_lets_them_go() -> None:
    with cluster() as on:
        assert on.is_on_the_wire("before-the-mesh")
        staying = on.client.start([sys.executable, "-c", STAY, on.server.address, str(PORT)])
        staying.wait_output("kept 3\n")
        on.plane.apply(namespace("shop", dataplane="enabled"))
        on.wait_states("active")
        assert not on.is_on_the_wire("inside-the-mesh")
        # The connection from before goes on, and none is broken on the way in.
        kept = staying.output.count("kept")
        staying.wait_output(f"kept {kept + 20}\n")
        # A pod that comes later is taken in as it comes, and reaches the others.
        late = on.a.pod("shop", "late")
        eventually(lambda: on.state("late") == "active", 60.0, "the late pod is active")
        assert on.ask("from-the-late-pod", by=late) == "from-the-late-pod"
        on.plane.apply(namespace("shop"))
        on.wait_states("")
        assert on.is_on_the_wire("after-the-mesh")
        assert staying.running


@pytest.mark.slow
def test_an_api_server_that_is_gone_changes_nothing_but_what_is_new() -> None:
    with cluster() as on:
        on.plane.apply(namespace("shop", dataplane="enabled"))
        on.wait_states("active")
        on.plane.server.faults.down = True
        on.plane.call(on.plane.server.drop_watches())
        for number in range(3):
            assert not on.is_on_the_wire(f"without-api-{number}")
        agent = on.a.node.running_agent
        assert agent is not None
        agent.kill()
        # Workers and listeners go on without an agent, too.
        assert not on.is_on_the_wire("without-api-and-agent")
        on.plane.server.faults.down = False
        on.a.agent()
        on.plane.apply(namespace("shop"))
        on.wait_states("")
        assert on.is_on_the_wire("plain-again")
