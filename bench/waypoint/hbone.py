"""Our worker and Envoy as waypoints of a mesh: HBONE in from clients, HBONE out to the server.

Both get the same certificates. The ends of the tunnels are our engine's in either case, so that
only what is in the middle differs; they share the core of load and server. A client's connections
come as streams of one tunnel.
"""

from __future__ import annotations

import pickle
import random
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from bench import tunnel_proxy
from bench.model import Peer
from bench.tunnel_proxy import ProxySettings
from bench.waypoint.hbone_envoy import HboneSide, hbone_config
from bench.waypoint.objects import ADDRESSES, CALLER, HOST, OWN, SERVER
from bench.waypoint.stand import Ground, Running, Start, envoy_command, wait_for
from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from mesh.tunnel.select import best_engine
from tests.support.certs import TestCa
from tests.support.processes import free_port

HBONE_PORT = 15008


class HboneStand:
    """`proxies`: waypoints, each reached through the ports of a tunnel's near end."""

    def __init__(self, ground: Ground, peers: Iterable[Peer]) -> None:
        self.ground = ground
        ca = TestCa("cluster.local")
        self._credentials = {name: ca.issue(name) for name in (CALLER, OWN, SERVER)}
        self._server = _free_address()
        self._end("server", SERVER, [(self._server, HBONE_PORT, "")], (HOST, ground.upstream))
        wait_for(HBONE_PORT, self._server)
        self.proxies = {peer: self._waypoint(peer) for peer in peers}

    def _end(
        self,
        name: str,
        identity: SpiffeId,
        listen: list[tuple[str, int, str]],
        upstream: tuple[str, int],
    ) -> None:
        settings = ProxySettings(
            engine=best_engine(),
            credentials=self._credentials[identity],
            expects=frozenset((OWN,)) if identity is CALLER else frozenset(),
            listen=listen,
            next=upstream,
        )
        argv = tunnel_proxy.command(settings, self.ground.folder / name)
        self.ground.launch(argv, self.ground.cores.client)

    def _waypoint(self, peer: Peer) -> Running:
        """Start a waypoint, and the near end that leads to it."""
        folder = self.ground.folder / f"hbone-{peer.name.lower()}"
        folder.mkdir()
        address, tunnel = _free_address(), free_port()
        start = self._ours if peer is Peer.OURS else self._envoy
        argv = start(address, tunnel, folder)
        running = self.ground.proxy(Start(argv=argv, ports={}, listens=[(address, tunnel)]))
        ports = {port: free_port() for port in ADDRESSES}
        listen = [(HOST, own, f"{ADDRESSES[port]}:{port}") for port, own in ports.items()]
        self._end(f"{peer.name.lower()}-client", CALLER, listen, (address, tunnel))
        for port in ports.values():
            wait_for(port)
        return Running(process=running.process, ports=ports)

    def _ours(self, address: str, tunnel: int, folder: Path) -> list[str]:
        own = folder / "credentials"
        own.write_bytes(pickle.dumps(self._credentials[OWN]))
        argv = [sys.executable, "-m", "bench.waypoint.worker", "hbone"]
        return [*argv, str(self.ground.upstream), str(own), address, str(tunnel), self._server]

    def _envoy(self, address: str, tunnel: int, folder: Path) -> list[str]:
        credentials: Credentials = self._credentials[OWN]
        side = HboneSide(
            listen=(address, tunnel),
            server=(self._server, HBONE_PORT),
            application=f"{self._server}:{self.ground.upstream}",
            credentials=credentials,
        )
        return envoy_command(hbone_config(side, folder), folder)


def _free_address() -> str:
    """An address of this machine where nobody has the HBONE port."""
    chosen = random.SystemRandom()
    while True:
        address = f"127.{chosen.randint(16, 250)}.{chosen.randint(0, 250)}.{chosen.randint(1, 250)}"
        with socket.socket() as sock:
            if sock.connect_ex((address, HBONE_PORT)) != 0:
                return address
