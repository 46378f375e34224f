"""A cluster of the lab's nodes: API server, controller, kubelets, agents on Kubernetes.

The API stand-in and the controller run in this process, on a thread that lives in the network
namespace of a node of their own; agents are processes, as in a cluster. The kubelet is fake: for a
Pod object it makes the network namespace, starts a process in the pod's cgroup, and writes the
status. Agents see a /proc of their own making, because process 1 of a test machine may be out of
reach, and the "host" is the node's namespace.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from agent.admin.client import AdminClient
from agent.netns import call_in_netns, open_netns
from controller.kubernetes.run import ClusterSettings, run_cluster_controller
from controller.kubernetes.token_review import Account
from controller.run import ControllerPorts, ControllerSettings
from mesh.identity.state_dir import StateDir
from tests.kube.test_connect import kubeconfig
from tests.lab import Lab
from tests.lab.agent import MESHNODE, MESHNODE_ENVIRONMENT, Agent
from tests.lab.network import plug_pod
from tests.lab.process import Place, Process, Result, run
from tests.lab.system import NETNS_ROOT, command
from tests.lab.topology import Node
from tests.support.kube_api import KubeApiServer

T = TypeVar("T")
SYSTEM = "meshnode-system"
AGENTS = Account(namespace=SYSTEM, name="meshnode-agent")


class ControlPlane:
    """API server and controller on a thread in the namespace of a node."""

    def __init__(self, lab: Lab, node: Node) -> None:
        self.server = KubeApiServer(has_gateway_api=True)
        self.address = node.addresses.underlay4
        self.directory = lab.directory / "control"
        self.directory.mkdir()
        self._netns = str(NETNS_ROOT / node.netns)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready: Future[int] = Future()
        self.config = self.directory / "unset"
        self.ca_port = 0

    @contextmanager
    def running(self) -> Iterator[ControlPlane]:
        fd = open_netns(self._netns)
        thread = threading.Thread(
            target=lambda: call_in_netns(fd, lambda: self._loop.run_until_complete(self._run())),
            name="control plane",
        )
        thread.start()
        try:
            self.ca_port = self._ready.result(60)
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()
            self._loop.close()

    def call(self, work: Coroutine[None, None, T]) -> T:
        """Run something on the control plane's loop, to its end."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def apply(self, *manifests: Mapping[str, object]) -> None:
        self.call(self.server.apply(*manifests))

    def delete(self, manifest: Mapping[str, object]) -> None:
        self.call(self.server.delete(manifest))

    def get(self, collection: str, namespace: str, name: str) -> Mapping[str, object]:
        async def read() -> Mapping[str, object]:
            return self.server.store.get(collection, (namespace, name))

        return self.call(read())

    def root_file(self) -> Path:
        """What every namespace's ConfigMap holds."""
        path = self.directory / "root.pem"
        path.write_bytes(StateDir(self.directory / "ca").load_server_root().roots_pem)
        return path

    async def _run(self) -> None:
        async with self.server.running(host=self.address):
            url = f"http://{self.address}:{self.server.port}"
            self.config = kubeconfig(self.directory, {"server": url}, {})
            try:
                await run_cluster_controller(
                    ClusterSettings(
                        kubeconfig=self.config,
                        namespace=SYSTEM,
                        identity="one",
                        agents=AGENTS,
                        retry_s=0.2,
                    ),
                    ControllerSettings(
                        state_dir=self.directory / "ca",
                        host=self.address,
                        port=0,
                        health_port=None,
                    ),
                    stop=self._stop,
                    on_ready=self._say_ready,
                )
            except BaseException as error:
                if not self._ready.done():
                    self._ready.set_exception(error)
                raise

    def _say_ready(self, ports: ControllerPorts) -> None:
        self._ready.set_result(ports.ca)


class FakeNode:
    """A node whose kubelet is us."""

    def __init__(self, lab: Lab, node: Node, plane: ControlPlane) -> None:
        self._lab = lab
        self.node = node
        self._plane = plane
        self._proc = lab.directory / f"proc-{node.short_name}"
        self._proc.mkdir()
        host = self._proc / "1" / "ns"
        host.mkdir(parents=True)
        (host / "net").symlink_to(NETNS_ROOT / node.netns)
        self._free = deque(range(1, 250))
        self._numbers: dict[str, int] = {}

    def pod(self, namespace: str, name: str, *, account: str = "default") -> KubePod:
        """Schedule a pod here and start it: object, namespace, process, status."""
        uid = str(uuid.uuid4())
        number = self._number(name)
        netns = self._lab.own_netns(f"{self.node.short_name}-{name}")
        plug_pod(self.node.netns, netns, self.node.addresses, number)
        place = self._lab.place(netns, f"{self.node.short_name}/pods/pod{uid}")
        pause = self._lab.start(place, name, ["sleep", "3600"])
        (self._proc / str(pause.pid)).symlink_to(f"/proc/{pause.pid}")
        four, six = self.node.addresses.pod(number)
        manifest: Mapping[str, object] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": uid,
                "labels": {"app": name},
            },
            "spec": {"nodeName": self.node.name, "serviceAccountName": account},
            "status": {
                "phase": "Running",
                "podIP": four,
                "podIPs": [{"ip": four}, {"ip": six}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        pod = KubePod(self._lab, place, pause, manifest, four, self._proc)
        self._plane.apply(manifest)
        return pod

    def _number(self, name: str) -> int:
        """A number whose link is gone: a namespace lives as long as anybody holds it."""
        for _ in range(len(self._free)):
            number = self._free.popleft()
            if self.node.run(["ip", "link", "show", f"pod{number}"]).status != 0:
                self._numbers[name] = number
                return number
            self._free.append(number)
        raise AssertionError("no address is free: namespaces of pods that went are still held")

    def remove(self, pod: KubePod) -> None:
        """End a pod: its process, its object, then its namespace."""
        pod.pause.kill()
        (self._proc / str(pod.pause.pid)).unlink(missing_ok=True)
        self._plane.delete(pod.manifest)
        command(["ip", "netns", "del", pod.place.netns])
        meta = pod.manifest["metadata"]
        assert isinstance(meta, dict)
        self._free.append(self._numbers.pop(str(meta["name"])))

    def agent(self) -> Agent:
        """Start the node's agent, with the token of its own pod."""
        token_file = self._lab.directory / f"token-{self.node.short_name}"
        token_file.write_text(self._add_agent_pod())
        made = KubeAgent(
            self.node,
            self._lab,
            self._proc,
            [
                f"--source=kubernetes:{self._plane.config}",
                f"--host-proc={self._proc}",
                f"--ca-address={self._plane.address}:{self._plane.ca_port}",
                f"--join-token-file={token_file}",
                f"--ca-root-file={self._plane.root_file()}",
            ],
        )
        self.node.running_agent = made
        made.wait_ready(60.0)
        return made

    def _add_agent_pod(self) -> str:
        """Tell the cluster of the agent's pod; the token by which the cluster knows it."""
        name, uid = f"meshnode-agent-{self.node.short_name}", str(uuid.uuid4())
        self._plane.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": SYSTEM, "uid": uid},
                "spec": {
                    "nodeName": self.node.name,
                    "serviceAccountName": AGENTS.name,
                    "hostNetwork": True,
                },
                "status": {"phase": "Running", "podIP": self.node.addresses.underlay4},
            }
        )
        extra = {"pod-name": [name], "pod-uid": [uid], "node-name": [self.node.name]}
        token = f"token of {self.node.name}"
        self._plane.server.reviews[token] = {
            "authenticated": True,
            "audiences": ["meshnode-ca"],
            "user": {
                "username": f"system:serviceaccount:{SYSTEM}:{AGENTS.name}",
                "extra": {f"authentication.kubernetes.io/{k}": v for k, v in extra.items()},
            },
        }
        return token


class KubePod:
    """A running pod: enter it with `run` and `start`."""

    def __init__(
        self,
        lab: Lab,
        place: Place,
        pause: Process,
        manifest: Mapping[str, object],
        address: str,
        proc: Path,
    ) -> None:
        self._lab = lab
        self._proc = proc
        self.place = place
        self.pause = pause
        self.manifest = manifest
        self.address = address

    def start(self, argv: list[str]) -> Process:
        """Start a program in the pod."""
        return self._lab.start(self.place, "app", argv)

    def run(self, argv: list[str]) -> Result:
        """Run a program in the pod, to its end."""
        return run(self.place, argv)


class KubeAgent(Agent):
    """An agent on `--source kubernetes`, in a /proc where it finds itself."""

    def __init__(self, node: Node, lab: Lab, proc: Path, options: list[str]) -> None:
        self.paths = node.paths
        self.log_file = lab.log_path(f"{node.short_name}-agent")
        arguments = [
            *(*MESHNODE, "agent", "--node", node.name, "--cgroup", str(node.pods_cgroup)),
            *("--drain-timeout", "2s", *options),
        ]
        # `self` names the process, which stays the same one through exec.
        script = f'ln -sfn $$ "{proc}/self"; ln -sfn /proc/$$ "{proc}/$$"; exec "$@"'
        argv = ["sh", "-c", script, "sh", *arguments]
        self._process = Process(node.place, argv, self.log_file, dict(MESHNODE_ENVIRONMENT))
        self._client = AdminClient(node.paths.node, node.paths.admin_socket)
