"""Tunnel engines against themselves on loopback: `python -m bench.tunnel [native] [python] ...`.

Prints throughput over one and over eight streams, the round trip of 128 bytes, streams opened per
second on a warm tunnel, and the resident memory of an idle tunnelled connection. Client, server
and both applications share one process: compare engines with each other, not with other programs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

from mesh.tunnel.contract import (
    End,
    Headers,
    Loss,
    StreamRequest,
    Tunnel,
    TunnelSettings,
)
from mesh.tunnel.python_engine import PythonTunnelEngine
from mesh.tunnel.select import EngineFactory, engine_factory
from tests.support.certs import TestCa, spiffe

_CONNECT = ((b":method", b"CONNECT"), (b":authority", b"192.0.2.1:80"))
_SETTINGS = TunnelSettings(max_concurrent_streams=100_000)


def _python_h2() -> EngineFactory:
    return lambda loop, settings: PythonTunnelEngine(loop, settings, "h2")


ENGINES: dict[str, Callable[[], EngineFactory]] = {
    "native": lambda: engine_factory("native"),
    "python": lambda: engine_factory("python"),
    "python-h2": _python_h2,
}


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected loopback sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


class Ends:
    """Events of tunnels and streams, as far as a benchmark cares."""

    def __init__(self, loop: asyncio.AbstractEventLoop, apps: list[socket.socket]) -> None:
        self.up: asyncio.Future[Tunnel] = loop.create_future()
        self.opened = asyncio.Queue[None]()
        self.closed = asyncio.Queue[End]()
        self._apps = apps

    def tunnel_up(self, tunnel: Tunnel) -> None:
        self.up.set_result(tunnel)

    def tunnel_draining(self, tunnel: Tunnel) -> None: ...
    def stream_slot_free(self, tunnel: Tunnel) -> None: ...

    def tunnel_lost(self, tunnel: Tunnel, loss: Loss) -> None:
        if not self.up.done():
            self.up.set_exception(ConnectionError(str(loss)))

    def stream_requested(self, tunnel: Tunnel, request: StreamRequest) -> None:
        request.accept((), self._apps.pop(), self)

    def stream_opened(self, headers: Headers) -> None:
        self.opened.put_nowait(None)

    def stream_refused(self, status: int, headers: Headers, detail: str) -> None:
        raise RuntimeError(f"refused: {status} {detail}")

    def stream_closed(self, end: End) -> None:
        self.closed.put_nowait(end)


class Bench:
    """A warm tunnel between two sides in this process."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tunnel: Tunnel, apps: list[socket.socket], ends: Ends
    ) -> None:
        self.loop = loop
        self.tunnel = tunnel
        self._apps = apps
        self.ends = ends

    async def connect(self) -> tuple[socket.socket, socket.socket]:
        """Open a stream; return the applications' sockets on both ends of it."""
        near, near_engine = tcp_pair()
        far, far_engine = tcp_pair()
        self._apps.append(far_engine)
        self.tunnel.open_stream(_CONNECT, near_engine, self.ends)
        await self.ends.opened.get()
        return near, far


@contextlib.asynccontextmanager
async def warm_tunnel(new_engine: EngineFactory) -> AsyncIterator[Bench]:
    loop = asyncio.get_running_loop()
    ca = TestCa()
    engine = new_engine(loop, _SETTINGS)
    near, far = tcp_pair()
    apps: list[socket.socket] = []
    ends, server_ends = Ends(loop, apps), Ends(loop, apps)
    engine.server(far, ca.issue(spiffe("server")), server_ends)
    tunnel = engine.client(near, ca.issue(spiffe("client")), frozenset((spiffe("server"),)), ends)
    await ends.up
    try:
        yield Bench(loop, tunnel, apps, ends)
    finally:
        await engine.aclose()


async def throughput(bench: Bench, streams: int, total_bytes: int) -> tuple[float, float]:
    """Gb/s from one application to the other over `streams` streams at once, and the CPU seconds
    per GB of everything in this process, which depend less on what else the machine does."""
    pairs = [await bench.connect() for _ in range(streams)]
    chunk = bytes(256 * 1024)
    share = total_bytes // streams

    async def send(sock: socket.socket) -> None:
        for _ in range(share // len(chunk)):
            await bench.loop.sock_sendall(sock, chunk)
        sock.shutdown(socket.SHUT_WR)

    async def receive(sock: socket.socket) -> int:
        buffer = bytearray(256 * 1024)
        count = 0
        while got := await bench.loop.sock_recv_into(sock, buffer):
            count += got
        sock.close()
        return count

    begin, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for near, _ in pairs:
            group.create_task(send(near))
        results = [group.create_task(receive(far)) for _, far in pairs]
    elapsed, cpu = time.perf_counter() - begin, time.process_time() - cpu
    for near, _ in pairs:
        near.close()
    moved = sum(result.result() for result in results) / 1e9
    return moved * 8 / elapsed, cpu / moved


async def round_trips(bench: Bench, count: int) -> list[float]:
    """Microseconds for 128 bytes there and back, one value per exchange."""
    near, far = await bench.connect()
    message = bytes(128)
    results = []
    for _ in range(count):
        begin = time.perf_counter()
        await bench.loop.sock_sendall(near, message)
        await bench.loop.sock_sendall(far, await bench.loop.sock_recv(far, 4096))
        await bench.loop.sock_recv(near, 4096)
        results.append((time.perf_counter() - begin) * 1e6)
    near.close()
    far.close()
    return results


async def connects_per_s(bench: Bench, count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        near, far = await bench.connect()
        near.close()
        far.close()
    return count / (time.perf_counter() - begin)


async def idle_bytes(bench: Bench, count: int) -> float:
    """Resident bytes per tunnelled connection and side; the applications' sockets are in it."""
    before = _resident()
    pairs = [await bench.connect() for _ in range(count)]
    after = _resident()
    for pair in pairs:
        for sock in pair:
            sock.close()
    return (after - before) / count / 2


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


async def measure(engine: EngineFactory, total_bytes: int) -> dict[str, float]:
    """One round of everything, on a fresh engine."""
    results = {}
    async with warm_tunnel(engine) as bench:
        results["idle, KiB per connection and side"] = await idle_bytes(bench, 1000) / 1024
        results["connects/s"] = await connects_per_s(bench, 1000)
        trips = await round_trips(bench, 2000)
        results["round trip of 128 B, p50 us"] = statistics.median(trips)
        results["round trip of 128 B, p99 us"] = statistics.quantiles(trips, n=100)[98]
        for streams in (1, 8):
            rate, cpu = await throughput(bench, streams, total_bytes)
            results[f"throughput, {streams} streams, Gb/s"] = rate
            results[f"throughput, {streams} streams, CPU s/GB"] = cpu
    return results


def measure_apart(name: str, total_bytes: int) -> dict[str, float]:
    """In a process of its own: memory that one engine left behind would hide another's."""
    reader, writer = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=_send_results, args=(writer, name, total_bytes)
    )
    process.start()
    writer.close()
    results: dict[str, float] = reader.recv()
    process.join()
    return results


def _send_results(writer: Connection, name: str, total_bytes: int) -> None:
    writer.send(uvloop.run(measure(ENGINES[name](), total_bytes)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", nargs="*", choices=[*ENGINES, []], help="default: all but h2")
    parser.add_argument("--mib", type=int, default=1024, help="payload per throughput run")
    parser.add_argument("--rounds", type=int, default=1, help="print medians of as many rounds")
    options = parser.parse_args()
    names: list[str] = options.engine or ["python", "native"]
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names if number % 2 == 0 else reversed(names):
            rounds[name].append(measure_apart(name, options.mib << 20))
    print(f"{'':42}" + "".join(f"{name:>12}" for name in names))
    for metric in rounds[names[0]][0]:
        medians = (statistics.median(found[metric] for found in rounds[name]) for name in names)
        print(f"{metric:42}" + "".join(f"{value:12.2f}" for value in medians))
    return 0


if __name__ == "__main__":
    sys.exit(main())
