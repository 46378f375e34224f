"""A lab with a waypoint: a client on one node, two versions of a server on another."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab import Lab, Pod, Process, Result, eventually
from tests.lab.objects import Json, KubeObject, kube_object
from tests.lab.waypoint import start_waypoint, wait_ready, waypoint_labels

NAMESPACE = "shop"
VIP = "10.96.7.1"
PORT = 80
APP_PORT = 8080
SERVER = Path(__file__).with_name("app.py")


@dataclass(slots=True)
class Shop:
    """The running scene."""

    lab: Lab
    client: Pod
    v1: Pod
    v2: Pod
    waypoint_pod: Pod
    waypoint: Process

    def curl(self, *arguments: str, timeout_s: float = 60.0) -> Result:
        argv = ["curl", "-sS", "--max-time", "30", *arguments]
        return self.client.run(argv, timeout_s=timeout_s)

    def get(self, path: str = "/", *headers: str, host: str = VIP) -> str:
        """Status and body of a GET to the service."""
        extra = [part for header in headers for part in ("-H", header)]
        result = self.curl("-w", "\n%{http_code}", *extra, f"http://{host}{path}").check()
        body, _, status = result.stdout.rpartition("\n")
        return f"{status} {body}".strip()

    def route(self, name: str, *rules: Json, kind: str = "HTTPRoute", parent: str = "web") -> None:
        """Apply a route of the service and wait until everybody has it."""
        self.apply(
            f"route-{name}",
            kube_object(
                "gateway.networking.k8s.io/v1",
                kind,
                name,
                namespace=NAMESPACE,
                spec={
                    "parentRefs": [{"group": "", "kind": "Service", "name": parent}],
                    "rules": list(rules),
                },
            ),
        )

    def apply(self, name: str, content: KubeObject | Sequence[KubeObject]) -> None:
        """Change the mesh, and wait until waypoint and agents hold the change."""
        with self.changing():
            self.lab.apply(name, content)

    def delete(self, name: str) -> None:
        """Delete what `apply(name, ...)` wrote, if it did, and wait likewise."""
        if self.lab.objects.has(name):
            with self.changing():
                self.lab.delete(name)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Wait at the end of the block until all hold the one change that was made in it.

        Every change is waited for: one on its way would be taken for the next.
        """
        before = self.revision()
        with self.lab.changing():
            yield
        eventually(lambda: self.revision() > before, what="the waypoint has the change")

    def revision(self) -> int:
        """Newest snapshot that every worker serves."""
        argv = ["curl", "-sS", "http://127.0.0.1:15021/clusters"]
        workers = json.loads(self.waypoint_pod.run(argv).check().stdout)
        told = [worker["stats"]["revision"] if worker["stats"] else 0 for worker in workers]
        return min(told, default=0)


def service(
    name: str,
    vip: str,
    selector: dict[str, str],
    app_protocol: str = "",
    target_port: int = APP_PORT,
) -> KubeObject:
    """A Service behind the waypoint."""
    port: dict[str, Json] = {
        "name": "p",
        "protocol": "TCP",
        "port": PORT,
        "targetPort": target_port,
    }
    if app_protocol:
        port["appProtocol"] = app_protocol
    return kube_object(
        "v1",
        "Service",
        name,
        namespace=NAMESPACE,
        labels={"meshnode.io/use-waypoint": "gate"},
        spec={"clusterIP": vip, "clusterIPs": [vip], "selector": dict(selector), "ports": [port]},
    )


@contextmanager
def shop(purpose: str, options: Callable[[Lab], Sequence[str]] = lambda _: ()) -> Iterator[Shop]:
    """Build the scene; everything is gone at the end. `options` gives those of the waypoint, and
    may add to the lab."""
    with Lab(purpose) as lab:
        a, b = lab.node("node-a"), lab.node("node-b")
        lab.namespace(NAMESPACE, enrolled=True)
        client = a.pod("client", namespace=NAMESPACE)
        v1 = b.pod("web-v1", namespace=NAMESPACE, labels={"app": "web", "version": "v1"})
        v2 = b.pod("web-v2", namespace=NAMESPACE, labels={"app": "web", "version": "v2"})
        gate = b.pod("gate", namespace=NAMESPACE, labels=waypoint_labels("gate"))
        for pod in (v1, v2):
            pod.labels = {**pod.labels, "meshnode.io/use-waypoint": "gate"}
            lab.apply(f"pod-{NAMESPACE}-{pod.name}", pod.objects())
        lab.apply("service-web", service("web", VIP, {"app": "web"}))
        lab.apply("service-web-v1", service("web-v1", "10.96.7.2", {"version": "v1"}))
        lab.apply("service-web-v2", service("web-v2", "10.96.7.3", {"version": "v2"}))
        lab.start_agents("--access-log", "json")
        for pod in (v1, v2):
            version = pod.labels["version"]
            argv = [sys.executable, str(SERVER), str(APP_PORT), version]
            pod.start(argv).wait_listening(APP_PORT)
        process = start_waypoint(
            gate, f"{NAMESPACE}/gate", "--access-log", "text", *options(lab), ca_node=a
        )
        scene = Shop(lab, client, v1, v2, gate, process)
        try:
            wait_ready(gate)
            yield scene
        except BaseException as error:
            error.add_note(process.output[-6000:])
            raise
        finally:
            process.stop()
