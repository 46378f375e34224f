"""Nodes and pods on one machine, made of network namespaces and cgroups.

    with Lab("routing") as lab:
        a, b = lab.node("a"), lab.node("b")
        client, server = a.pod("client"), b.pod("server")
        server.start(["nginx", ...]).wait_listening(80)
        client.run(["curl", f"http://{server.address4}/"]).check()

A lab owns all it makes and removes it at the end of the block, whatever happened in it.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from agent.options import DEFAULT_CA_PORT
from agent.paths import NodePaths
from controller.admin import create_token, init_ca
from mesh.model.snapshot import MeshSettings
from tests.lab.agent import MESHNODE, MESHNODE_ENVIRONMENT, Agent
from tests.lab.capture import Capture, capture_wire
from tests.lab.network import NodeAddresses, join_node, lay_wire, plug_pod, route_between
from tests.lab.objects import (
    KubeObject,
    ObjectDirectory,
    namespace_object,
    pod_object,
    service_account_object,
)
from tests.lab.process import Place, Process, Result, run
from tests.lab.record import Kind, Record, sweep
from tests.lab.system import NETNS_ROOT, LabError, cgroup2_mount, eventually, mount_bpffs

DEFAULT_NAMESPACE = "default"
AUTHORITY_MADE = "ca.json"
"""The last file that a new authority writes."""


class Lab(AbstractContextManager["Lab"]):
    """A lab of nodes and pods; a context manager, used once.

    Attributes:
        name: unique on this machine; every resource carries it.
        objects: the directory of YAML that the agents watch.
        directory: mode 0700, for logs and captures; gone with the lab.
    """

    def __init__(self, purpose: str, *, name: str = "") -> None:
        """`purpose` becomes part of a fresh name; `name` fixes it (one such lab at a time)."""
        slug = re.sub(r"[^a-z0-9]+", "-", purpose.lower()).strip("-")[:24].strip("-")
        self.name = name or f"mnt-{secrets.token_hex(3)}-{slug}"
        self._record = Record(self.name)
        self.directory = self._record.directory
        self.nodes: dict[str, Node] = {}
        self._processes: list[Process] = []
        self._ca_node: Node | None = None

    def __enter__(self) -> Lab:
        if os.geteuid() != 0:
            raise LabError("a lab needs root: network namespaces and cgroups are made")
        sweep()
        self._record.create()
        try:
            self._build()
        except BaseException:
            self._record.clear()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with ExitStack() as last_first:  # every step is tried, whatever the others raise
            last_first.callback(self._record.clear)
            for process in self._processes:
                last_first.callback(process.kill)
            for agent in self.agents:
                last_first.callback(agent.stop)
                if error is not None:
                    error.add_note(agent.log_tail())
            for agent in self.agents:  # told first, then awaited: they drain side by side
                last_first.callback(agent.signal, signal.SIGTERM)

    def _build(self) -> None:
        mount_bpffs()
        self.cgroup = cgroup2_mount() / self._record.own(Kind.CGROUP, self.name)
        self.cgroup.mkdir()
        self.objects = ObjectDirectory(self.directory / "objects")
        wire = self._record.own(Kind.NETNS, f"{self.name}-wire")
        lay_wire(wire)
        self.wire = self.place(wire, "wire")

    def place(self, netns: str, cgroup: str) -> Place:
        """A cgroup of this lab, made if needed, with the namespace to use."""
        path = self.cgroup / cgroup
        path.mkdir(parents=True, exist_ok=True)
        return Place(cgroup=path, netns=netns)

    def node(self, name: str) -> Node:
        """Add a node, or return the one of that name."""
        if name in self.nodes:
            return self.nodes[name]
        addresses = NodeAddresses(len(self.nodes) + 1)
        netns = self._record.own(Kind.NETNS, f"{self.name}-{name}")
        self._record.own(Kind.NODE, netns)
        join_node(self.wire.netns, netns, addresses)
        node = Node(self, name, netns, addresses)
        for other in self.nodes.values():
            route_between(netns, other.addresses)
            route_between(other.netns, addresses)
        self.nodes[name] = node
        return node

    def own_netns(self, name: str) -> str:
        """Note a namespace somebody is about to make for this lab; its full name."""
        return self._record.own(Kind.NETNS, f"{self.name}-{name}")

    def apply(self, name: str, content: str | KubeObject | Sequence[KubeObject]) -> Path:
        """Write objects as the file `NAME.yaml` that the agents watch; its path."""
        return self.objects.apply(name, content)

    def delete(self, name: str) -> None:
        """Remove the file `NAME.yaml`."""
        self.objects.delete(name)

    def namespace(self, name: str, *, enrolled: bool) -> None:
        """Show a Namespace to the agents."""
        self.apply(f"namespace-{name}", namespace_object(name, enrolled=enrolled))

    def start(self, place: Place, name: str, argv: Sequence[str]) -> Process:
        """Start a program anywhere in the lab; `name` goes into the name of its log."""
        process = Process(place, argv, self.log_path(f"{name}-{Path(argv[0]).name}"))
        self._processes.append(process)
        return process

    def start_meshnode(self, place: Place, name: str, *arguments: str) -> Process:
        """Start a command of `meshnode` that runs until it is stopped; it dies with the lab."""
        argv = [*MESHNODE, *arguments]
        process = Process(place, argv, self.log_path(name), MESHNODE_ENVIRONMENT)
        self._processes.append(process)
        return process

    def log_path(self, name: str) -> Path:
        """A fresh file for what a program says."""
        logs = self.directory / "logs"
        logs.mkdir(exist_ok=True)
        return logs / f"{len(list(logs.iterdir())):03d}-{name}.log"

    def ca_options(self, node: Node) -> list[str]:
        """How the agent of `node` gets its certificates."""
        self._ca_node = holder = self._ca_node or node
        listen = f"{holder.addresses.underlay4}:{DEFAULT_CA_PORT}"
        state = self.directory / "ca"
        if node is holder:
            return ["--ca", str(state), "--ca-listen", listen]
        token_file = self.directory / f"join-{node.short_name}"
        if not token_file.exists():
            self._wait_authority(holder, state)
            token = create_token(state, node.name, now=time.time(), random_bytes=os.urandom)
            token_file.touch(mode=0o600)
            token_file.write_text(token)
        return ["--ca-address", listen, "--join-token-file", str(token_file)]

    def _wait_authority(self, holder: Node, state: Path) -> None:
        """Until the first agent has made the authority, if it is not ready yet."""

        def made() -> bool:
            agent = holder.running_agent
            if agent is not None and not agent.running:
                agent.wait_ready()  # tells how it ended
            return (state / AUTHORITY_MADE).exists()

        eventually(made, 60.0, "the certificate authority is there")

    def _make_authority(self) -> None:
        """As its first agent would: then the others, who join it, need not wait for that one."""
        state = self.directory / "ca"
        if not state.exists():
            domain = MeshSettings().trust_domain
            init_ca(state, trust_domain=domain, now=time.time(), random_bytes=os.urandom)

    def start_agents(self, *options: str, ready_within_s: float = 60.0) -> None:
        """Start the agents of all nodes side by side; return when all are ready."""
        self._make_authority()
        agents = [node.launch_agent(*options) for node in self.nodes.values()]
        for agent in agents:
            agent.wait_ready(ready_within_s)

    @property
    def agents(self) -> list[Agent]:
        """Agents that were started, of all nodes."""
        return [node.running_agent for node in self.nodes.values() if node.running_agent]

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Wait at the end of the block until all agents hold the one change that was made in it.

        Nothing may be on its way at the start: after changes that nobody waited for, `settle`.
        """
        before = [(agent, agent.revision) for agent in self.agents]
        yield
        for agent, revision in before:
            agent.wait_revision(revision + 1)

    def settle(self) -> None:
        """Wait until all agents hold all that was changed, in however many revisions.

        They tell of a file that cannot be read; it has the first name and came last, so what was
        changed before is in the same snapshot.
        """
        name = f"00-fence-{secrets.token_hex(4)}"
        self.apply(name, "kind: [")
        for agent in self.agents:
            agent.wait_problem(name, told=True)
        self.delete(name)
        for agent in self.agents:
            agent.wait_problem(name, told=False)
            agent.wait_ready()

    def capture(self) -> AbstractContextManager[Capture]:
        """Capture the wire between the first two nodes while the block runs."""
        first, second = list(self.nodes.values())[:2]
        return capture_wire(self.wire, self.directory, first.netns, second.addresses)


class Node:
    """One node of a lab.

    Attributes:
        name: unique on this machine: what `meshnode agent --node` is told.
        short_name: unique in the lab.
        netns: the node's network namespace, of the same name.
        pods_cgroup: parent of all pods' cgroups: what `--cgroup` is told.
    """

    def __init__(self, lab: Lab, short_name: str, netns: str, addresses: NodeAddresses) -> None:
        self.lab = lab
        self.short_name = short_name
        self.name = netns
        self.netns = netns
        self.addresses = addresses
        self.paths = NodePaths(netns)
        self.pods: dict[str, Pod] = {}
        self.place = lab.place(netns, f"{short_name}/system")
        self.pods_cgroup = lab.place(netns, f"{short_name}/pods").cgroup
        self.running_agent: Agent | None = None

    def pod(
        self,
        name: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        service_account: str = "",
        labels: Mapping[str, str] | None = None,
        publish: bool = True,
    ) -> Pod:
        """Add a pod; with `publish` its Pod and ServiceAccount are shown to the agents.

        The service account defaults to the pod's name, the labels to `app: NAME`.
        """
        netns = self.lab.own_netns(f"{self.short_name}-{name}")
        number = len(self.pods) + 1
        plug_pod(self.netns, netns, self.addresses, number)
        place = self.lab.place(netns, f"{self.short_name}/pods/{name}")
        pod = Pod(self, name, place, self.addresses.pod(number))
        pod.namespace = namespace
        pod.service_account = service_account or name
        pod.labels = dict(labels) if labels is not None else {"app": name}
        self.pods[name] = pod
        if publish:
            self.lab.apply(f"pod-{namespace}-{name}", pod.objects())
        return pod

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 40.0) -> Result:
        """Run a program as the node itself, to its end."""
        return run(self.place, argv, stdin=stdin, timeout_s=timeout_s)

    def meshnode(self, *arguments: str, timeout_s: float = 40.0) -> Result:
        """Run a command of `meshnode` about this node."""
        argv = [*MESHNODE, *arguments, "--node", self.name]
        return run(self.place, argv, timeout_s=timeout_s, env=MESHNODE_ENVIRONMENT)

    def start(self, argv: Sequence[str]) -> Process:
        """Start a program as the node itself."""
        return self.lab.start(self.place, self.short_name, argv)

    def agent(
        self, *options: str, ready_within_s: float = 60.0, env: Mapping[str, str] | None = None
    ) -> Agent:
        """Start this node's agent on the lab's objects and wait until it is ready.

        The first node that starts one holds the lab's certificate authority, the others join it.
        """
        agent = self.launch_agent(*options, env=env)
        agent.wait_ready(ready_within_s)
        return agent

    def launch_agent(self, *options: str, env: Mapping[str, str] | None = None) -> Agent:
        """The same without waiting."""
        agent = Agent(
            paths=self.paths,
            place=self.place,
            log_file=self.lab.log_path(f"{self.short_name}-agent"),
            source=self.lab.objects.path,
            pods_cgroup=self.pods_cgroup,
            options=[*self.lab.ca_options(self), *options],
            env=env,
        )
        self.running_agent = agent
        return agent


class Pod:
    """One pod: a network namespace and a cgroup on a node."""

    namespace = DEFAULT_NAMESPACE
    service_account = "default"

    def __init__(self, node: Node, name: str, place: Place, addresses: tuple[str, str]) -> None:
        self.node = node
        self.name = name
        self.place = place
        self.address4, self.address6 = addresses
        self.labels: Mapping[str, str] = {}

    @property
    def netns_path(self) -> str:
        return str(NETNS_ROOT / self.place.netns)

    def objects(self) -> list[KubeObject]:
        """Its ServiceAccount and Pod objects."""
        pod = pod_object(
            self.namespace,
            self.name,
            service_account=self.service_account,
            node=self.node.name,
            addresses=[self.address4, self.address6],
            netns=self.netns_path,
            labels=self.labels,
        )
        return [service_account_object(self.namespace, self.service_account), pod]

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 40.0) -> Result:
        """Run a program in the pod, to its end."""
        return run(self.place, argv, stdin=stdin, timeout_s=timeout_s)

    def start(self, argv: Sequence[str]) -> Process:
        """Start a program in the pod; it dies with the lab."""
        return self.node.lab.start(self.place, self.name, argv)
