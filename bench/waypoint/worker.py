"""One worker of the waypoint as it serves in production, but on plain TCP without tunnels.

    python -m bench.waypoint.worker UPSTREAM PORT_HTTP1 PORT_HTTP2

What arrives on the first port was meant for the HTTP/1.1 service, on the second for the HTTP/2 one.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from random import Random

import uvloop

from bench.waypoint.objects import ADDRESSES, CALLER, HOST, OWN, WAYPOINT, snapshot
from mesh.jwt.fetch import KeyFetcher, KeyRing
from mesh.model.address import SocketAddress, parse_ip
from mesh.telemetry.request_log import LogMode, RequestLog
from mesh.tunnel.contract import TunnelSettings
from mesh.tunnel.select import best_engine, engine_factory
from waypoint.inbound import find_origin
from waypoint.limits import ProxyLimits
from waypoint.worker import STATS_TICKS, TICK_S, Worker, WorkerOptions

OPTIONS = WorkerOptions(
    waypoint=WAYPOINT,
    identity=OWN,
    cluster="bench",
    access_log=RequestLog(mode=LogMode.OFF),
)


class PlainWorker(Worker):
    """A worker whose clients come without a tunnel."""

    async def serve(self, upstream: int, ports: dict[int, int]) -> None:
        """Listen for ever; `ports`: of the services, to ours."""
        self._state.replace_snapshot(snapshot(upstream))
        for service_port, port in ports.items():
            listener = socket.create_server((HOST, port), backlog=4096)
            listener.setblocking(False)
            self._loop.add_reader(listener, self._accept_plain, listener, service_port)
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
        self._spawn(self._front.serve(sock, origin))


async def serve(upstream: int, ports: dict[int, int]) -> None:
    engine = engine_factory(best_engine())(asyncio.get_running_loop(), TunnelSettings())
    fetcher = KeyFetcher()
    async with KeyRing(fetcher, Random()).run() as keys, asyncio.TaskGroup() as tasks:
        await PlainWorker(OPTIONS, engine, tasks, ProxyLimits(), keys).serve(upstream, ports)


def main() -> None:
    upstream, http1, http2 = map(int, sys.argv[1:4])
    gc.freeze()  # as waypoint.__main__ does
    uvloop.run(serve(upstream, dict(zip(ADDRESSES, (http1, http2), strict=True))))


if __name__ == "__main__":
    main()
