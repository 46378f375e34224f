"""One worker of the waypoint as it serves in production, without its supervisor.

    python -m bench.waypoint.worker plain UPSTREAM PORT_HTTP1 PORT_HTTP2
    python -m bench.waypoint.worker hbone UPSTREAM CREDENTIALS ADDRESS PORT SERVER_ADDRESS

`plain`: without tunnels; what arrives on the first port was meant for the HTTP/1.1 service, on the
second for the HTTP/2 one. `hbone`: tunnels in, and out to the server's HBONE port, with the pickled
credentials.
"""

from __future__ import annotations

import asyncio
import gc
import pickle
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random

import uvloop

from bench.waypoint.objects import ADDRESSES, CALLER, HOST, OWN, WAYPOINT, server_pod, snapshot
from mesh.jwt.fetch import KeyFetcher, KeyRing
from mesh.model.address import SocketAddress, parse_ip
from mesh.model.credentials import Credentials
from mesh.model.snapshot import MeshSnapshot
from mesh.telemetry.request_log import LogMode, RequestLog
from mesh.tunnel.contract import TunnelSettings
from mesh.tunnel.select import best_engine, engine_factory
from waypoint.downstream.inbound import find_origin
from waypoint.limits import ProxyLimits
from waypoint.parts import WorkerOptions
from waypoint.worker import STATS_TICKS, TICK_S, Worker

Listen = tuple[str, int]
OPTIONS = WorkerOptions(
    waypoint=WAYPOINT, identity=OWN, cluster="bench", access_log=RequestLog(mode=LogMode.OFF)
)


class LoneWorker(Worker):
    """A worker that is told everything at once."""

    async def serve_plain(self, upstream: int, ports: dict[int, int]) -> None:
        """Take clients that come without a tunnel; `ports`: of the services, to ours."""
        self._state.replace_snapshot(snapshot(upstream))
        for service_port, port in ports.items():
            listener = _listener(HOST, port)
            self._loop.add_reader(listener, self._accept_plain, listener, service_port)
        await self._tick()

    async def serve_hbone(self, known: MeshSnapshot, own: Credentials, listen: Listen) -> None:
        """Take tunnels."""
        self._state.change_credentials([own], [])
        self._state.replace_snapshot(known)
        listener = _listener(*listen)
        self._loop.add_reader(listener, self._accept, listener)
        await self._tick()

    async def _tick(self) -> None:
        """What a worker does besides, for ever."""
        ticks = 0
        while True:
            await asyncio.sleep(TICK_S)
            self._flush_records()
            ticks += 1
            if ticks % STATS_TICKS == 0:
                self._close_idle()

    def _accept_plain(self, listener: socket.socket, service_port: int) -> None:
        try:
            sock, (host, port) = listener.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        dialled = SocketAddress(parse_ip(ADDRESSES[service_port]), service_port)
        client = SocketAddress(parse_ip(host), port)
        origin = find_origin(self._state.snapshot, WAYPOINT, CALLER, client, dialled)
        assert origin is not None
        self._tasks.create_task(self._front.serve(sock, origin))


def _listener(host: str, port: int) -> socket.socket:
    listener = socket.create_server((host, port), backlog=4096)
    listener.setblocking(False)
    return listener


async def serve(run: Callable[[LoneWorker], Coroutine[None, None, None]]) -> None:
    engine = engine_factory(best_engine())(asyncio.get_running_loop(), TunnelSettings())
    fetcher = KeyFetcher()
    async with KeyRing(fetcher, Random()).run() as keys, asyncio.TaskGroup() as tasks:
        await run(LoneWorker(OPTIONS, engine, tasks, ProxyLimits(), keys))


def main() -> None:
    kind, upstream, *rest = sys.argv[1:]
    gc.freeze()  # as waypoint.__main__ does
    if kind == "plain":
        ports = dict(zip(ADDRESSES, map(int, rest), strict=True))
        uvloop.run(serve(lambda worker: worker.serve_plain(int(upstream), ports)))
        return
    credentials, address, port, server = rest
    own: Credentials = pickle.loads(Path(credentials).read_bytes())
    known = snapshot(int(upstream), server_pod(server))
    uvloop.run(serve(lambda worker: worker.serve_hbone(known, own, (address, int(port)))))


if __name__ == "__main__":
    main()
