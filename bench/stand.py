"""The test stand: two nodes, a client and two servers for each way of carrying bytes.

Enrolled pods and plain pods stand side by side on the same two nodes and the same wire. The plain
ones run in cgroups that the agent's hooks do not cover, so "no mesh" is really without. Envoy runs
in the plain pods' namespaces; clients connect to its local port, nothing is redirected.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from bench import envoy, haproxy
from bench.envoy import Hop, Side
from bench.model import Peer
from bench.plan import AgentSettings, Cores
from bench.tools import compile_tool
from bench.usage import pin
from tests.lab import Lab, LabError, Node, Pod, Process, eventually
from tests.lab.process import Place, run
from tests.lab.system import cgroup2_mount
from tests.support.certs import TestCa, spiffe

APP_PORT = 7000
HBONE_PORT = 15008
START_S = 30.0
MESH_NAMESPACE, PLAIN_NAMESPACE = "meshed", "plain"
_FIRST_PORT = {Peer.ENVOY_TLS: 16100, Peer.ENVOY_HBONE: 16200, Peer.HAPROXY_TLS: 16300}


class Route(StrEnum):
    """Which server the client talks to."""

    NEAR = "same-node"
    FAR = "cross-node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trio:
    """A client and its two servers."""

    client: Place
    near: Place
    far: Place
    addresses: Mapping[Route, str]

    def server(self, route: Route) -> Place:
        return self.near if route is Route.NEAR else self.far


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """How one peer is reached and what it costs.

    Attributes:
        targets: address and port the client dials.
        mesh_cgroups: processes that carry bytes on a route, both sides.
        tunnel_ports: of its connections between the sides, for cutting them.
        restart: replace all its processes by new ones.
    """

    trio: Trio
    targets: Mapping[Route, tuple[str, int]]
    mesh_cgroups: Mapping[Route, Sequence[Path]]
    tunnel_ports: Sequence[int]
    restart: Callable[[], None]


class Stand:
    """The stand, up and pinned. Made by `build_stand`."""

    def __init__(
        self, lab: Lab, tools: Path, cores: Cores, agents: AgentSettings, peers: Container[Peer]
    ) -> None:
        self.lab = lab
        self.cores = cores
        self._agent_settings = agents
        self._tools = {name: compile_tool(name, tools) for name in ("load", "serve", "spin")}
        self._a, self._b = lab.node("a"), lab.node("b")
        lab.namespace(MESH_NAMESPACE, enrolled=True)
        lab.namespace(PLAIN_NAMESPACE, enrolled=False)
        self._ca = TestCa()
        self._sidecars: dict[Peer, list[Process]] = {}
        plain, meshed = self._plain_pods(), self._meshed_pods()
        for trio in (plain, meshed):
            self._serve(trio)
        self.carriers: dict[Peer, Carrier] = {
            Peer.NO_MESH: _direct(plain),
            **{peer: self._sidecar_pair(peer, plain) for peer in _FIRST_PORT if peer in peers},
            Peer.OURS: self._agents(meshed),
        }
        self._prove_paths()
        self._keep_cores_awake()

    # -- using it -----------------------------------------------------------------------------

    def load(
        self, peer: Peer, route: Route, *arguments: str, timeout_s: float
    ) -> Mapping[str, float]:
        """Run the load generator against a peer; the numbers it printed."""
        carrier = self.carriers[peer]
        argv = self._load_command(carrier, route, arguments)
        said = run(carrier.trio.client, argv, timeout_s=timeout_s + 15.0).check().stdout
        numbers: dict[str, float] = json.loads(said)
        if numbers.get("failed"):
            raise RuntimeError(f"{peer}: {numbers['failed']:.0f} connections failed")
        return numbers

    @contextmanager
    def idle(self, peer: Peer, route: Route, count: int) -> Iterator[None]:
        """Hold `count` connections, each proven by a byte there and back, during the block."""
        carrier = self.carriers[peer]
        argv = self._load_command(carrier, route, ["idle", str(count)])
        holder = self.lab.start(carrier.trio.client, "idle", argv)
        try:
            holder.wait_output('"open"', 60.0 + count / 50)
            yield
        finally:
            holder.stop()

    @property
    def all_mesh_cgroups(self) -> list[Path]:
        """Processes of every mesh, each once."""
        found: dict[Path, None] = {}
        for carrier in self.carriers.values():
            for cgroups in carrier.mesh_cgroups.values():
                found.update(dict.fromkeys(cgroups))
        return list(found)

    def cut_tunnels(self, peer: Peer) -> None:
        """Kill a peer's connections between the sides, so that the next one has to be made."""
        carrier = self.carriers[peer]
        ports = " or ".join(f"dport = :{port}" for port in carrier.tunnel_ports)
        if not ports:
            return
        places = (carrier.trio.client, self._a.place, self._b.place)

        def cut() -> bool:
            left = ""
            for place in places:
                run(place, ["ss", "-K", "-t", "-n", f"( {ports} )"]).check()
                argv = ["ss", "-H", "-t", "-n", "state", "established", f"( {ports} )"]
                left += run(place, argv).check().stdout
            return not left

        eventually(cut, 5.0, f"{peer}: no tunnel is left")

    # -- building it --------------------------------------------------------------------------

    def _load_command(self, carrier: Carrier, route: Route, arguments: Sequence[str]) -> list[str]:
        address, port = carrier.targets[route]
        kind, *rest = arguments
        argv = [str(self._tools["load"]), kind, address, str(port), *rest]
        return _pinned(self.cores.client, argv)

    def _plain_pods(self) -> Trio:
        def place(pod: Pod) -> Place:
            return self.lab.place(pod.place.netns, f"{pod.node.short_name}/plain/{pod.name}")

        client = self._a.pod("plain-client", namespace=PLAIN_NAMESPACE)
        near = self._a.pod("plain-near", namespace=PLAIN_NAMESPACE)
        far = self._b.pod("plain-far", namespace=PLAIN_NAMESPACE)
        return Trio(
            client=place(client), near=place(near), far=place(far), addresses=_addresses(near, far)
        )

    def _meshed_pods(self) -> Trio:
        client = self._a.pod("client", namespace=MESH_NAMESPACE)
        near = self._a.pod("near", namespace=MESH_NAMESPACE)
        far = self._b.pod("far", namespace=MESH_NAMESPACE)
        return Trio(
            client=client.place, near=near.place, far=far.place, addresses=_addresses(near, far)
        )

    def _serve(self, trio: Trio) -> None:
        argv = _pinned(self.cores.server, [str(self._tools["serve"]), str(APP_PORT)])
        for place in (trio.near, trio.far):
            self.lab.start(place, "serve", argv).wait_listening(APP_PORT)

    def _keep_cores_awake(self) -> None:
        place = self.lab.place(self._a.netns, "spin")
        for core in self.cores.all:
            self.lab.start(place, f"spin{core}", _pinned(core, [str(self._tools["spin"])]))

    def _sidecar_pair(self, peer: Peer, trio: Trio) -> Carrier:
        """Three proxies, one beside the client and one beside each server."""
        tunnel = _FIRST_PORT[peer]
        ports = {Route.NEAR: tunnel + 1, Route.FAR: tunnel + 2}
        pods = {"client": trio.client, "near": trio.near, "far": trio.far}
        node = {"client": "a", "near": "a", "far": "b"}
        places = {
            name: self.lab.place(pod.netns, f"{node[name]}/{peer.name.lower()}/{name}")
            for name, pod in pods.items()
        }

        def restart() -> None:
            for process in self._sidecars.get(peer, []):
                process.stop()
            starts = [self._sidecar(peer, name, place, trio) for name, place in places.items()]
            self._sidecars[peer] = starts
            for process, port in zip(starts, [ports[Route.FAR], tunnel, tunnel], strict=True):
                process.wait_listening(port, START_S)
            self._pin_sides(places["client"], [places["near"], places["far"]])

        restart()
        cgroups = {name: place.cgroup for name, place in places.items()}
        return Carrier(
            trio=trio,
            targets={route: ("127.0.0.1", port) for route, port in ports.items()},
            mesh_cgroups={
                Route.NEAR: (cgroups["client"], cgroups["near"]),
                Route.FAR: (cgroups["client"], cgroups["far"]),
            },
            tunnel_ports=(tunnel,),
            restart=restart,
        )

    def _sidecar(self, peer: Peer, name: str, place: Place, trio: Trio) -> Process:
        tunnel = _FIRST_PORT[peer]
        client, server = spiffe("bench-client"), spiffe("bench-server")
        folder = self.lab.directory / f"{peer.name.lower()}-{name}"
        folder.mkdir(mode=0o700, exist_ok=True)
        is_client = name == "client"
        hops = [
            Hop(listen=("127.0.0.1", tunnel + number), upstream=(address, tunnel))
            for number, address in enumerate(trio.addresses.values(), start=1)
        ]
        if not is_client:
            hops = [Hop(listen=("0.0.0.0", tunnel), upstream=("127.0.0.1", APP_PORT))]
        side = Side(
            hops=hops,
            credentials=self._ca.issue(client if is_client else server),
            peers=[server if is_client else client],
            hbone=peer is Peer.ENVOY_HBONE,
        )
        if peer is Peer.HAPROXY_TLS:
            argv = haproxy.command(side, folder, is_client=is_client)
        else:
            config = (envoy.client_config if is_client else envoy.server_config)(side, folder)
            argv = envoy.command(config, folder)
        return self.lab.start(place, f"{peer.name.lower()}-{name}", argv)

    def _agents(self, trio: Trio) -> Carrier:
        def restart() -> None:
            for node in (self._a, self._b):
                if node.running_agent is not None and node.running_agent.running:
                    node.running_agent.stop()
            settings = self._agent_settings
            for node in (self._a, self._b):
                node.agent(*settings.argv, ready_within_s=START_S, env=settings.env)
            pin(node_cgroups(self._a), self.cores.near_proxy)
            pin(node_cgroups(self._b), self.cores.far_proxy)

        restart()
        return Carrier(
            trio=trio,
            targets={route: (address, APP_PORT) for route, address in trio.addresses.items()},
            mesh_cgroups={
                Route.NEAR: node_cgroups(self._a),
                Route.FAR: (*node_cgroups(self._a), *node_cgroups(self._b)),
            },
            tunnel_ports=(HBONE_PORT,),
            restart=restart,
        )

    def _pin_sides(self, near: Place, far: Sequence[Place]) -> None:
        pin([near.cgroup], self.cores.near_proxy)
        pin([place.cgroup for place in far], self.cores.far_proxy)

    def _prove_paths(self) -> None:
        """Refuse to measure a mesh that carries nothing: ask the agent what paths are open."""
        wanted = {Route.NEAR: "direct", Route.FAR: "hbone"}
        for route, path in wanted.items():
            with self.idle(Peer.OURS, route, 3):
                eventually(partial(self._is_open, path), 5.0, f"{route} goes by {path}")

    def _is_open(self, path: str) -> bool:
        agent = self._a.running_agent
        status = agent.status() if agent is not None else None
        if status is None:
            raise LabError("the agent of node a does not answer")
        assert status.open_connections.get(path, 0) >= 3, dict(status.open_connections)
        return True


@contextmanager
def build_stand(
    cores: Cores, tools: Path, agents: AgentSettings, peers: Container[Peer]
) -> Iterator[Stand]:
    """Set the stand up, with such pairs of proxies; all of it is gone after the block."""
    with Lab("bench") as lab:
        yield Stand(lab, tools, cores, agents, peers)


def _pinned(core: int, argv: Sequence[str]) -> list[str]:
    return ["taskset", "-c", str(core), *argv]


def _addresses(near: Pod, far: Pod) -> dict[Route, str]:
    return {Route.NEAR: near.address4, Route.FAR: far.address4}


def _direct(trio: Trio) -> Carrier:
    return Carrier(
        trio=trio,
        targets={route: (address, APP_PORT) for route, address in trio.addresses.items()},
        mesh_cgroups={Route.NEAR: (), Route.FAR: ()},
        tunnel_ports=(),
        restart=lambda: None,
    )


def node_cgroups(node: Node) -> tuple[Path, Path]:
    """Where the processes of a node's agent live: itself, and what it starts."""
    return node.place.cgroup, cgroup2_mount() / node.paths.cgroup_name
