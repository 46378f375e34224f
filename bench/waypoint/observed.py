"""A worker whose requests are observed, and somebody who takes its lines and spans.

    python -m bench.waypoint.observed MODE SAMPLING UPSTREAM PORT_HTTP1 PORT_HTTP2

`MODE` is `--access-log` of a waypoint, `SAMPLING` the share of new traces or `none`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import uvloop

from bench.waypoint.objects import ADDRESSES
from bench.waypoint.worker import OPTIONS, LoneWorker
from mesh.jwt.fetch import KeyFetcher, KeyRing
from mesh.telemetry.request_log import parse_request_log
from mesh.telemetry.trace_settings import parse_sampling
from mesh.tunnel.contract import TunnelSettings
from mesh.tunnel.select import best_engine, engine_factory
from waypoint.feed import Lines, supervisor_reader
from waypoint.limits import ProxyLimits
from waypoint.parts import WorkerOptions


class ObservedWorker(LoneWorker):
    """A worker that has a supervisor to tell."""

    async def report_to(self, supervisor: socket.socket) -> None:
        _, self._writer = await asyncio.open_unix_connection(sock=supervisor)


def take_everything(worker: socket.socket) -> None:
    """What a supervisor does with lines, but that nobody reads them."""
    messages = supervisor_reader()
    with Path(os.devnull).open("w") as out:
        while data := worker.recv(1 << 18):
            for message in messages.feed(data):
                if isinstance(message, Lines):
                    out.write(message.text)
                    out.flush()


async def serve(
    options: WorkerOptions, supervisor: socket.socket, upstream: int, ports: dict[int, int]
) -> None:
    engine = engine_factory(best_engine())(asyncio.get_running_loop(), TunnelSettings())
    fetcher = KeyFetcher()
    async with KeyRing(fetcher, Random()).run() as keys, asyncio.TaskGroup() as tasks:
        worker = ObservedWorker(options, engine, tasks, ProxyLimits(), keys)
        await worker.report_to(supervisor)
        await worker.serve_plain(upstream, ports)


def main() -> None:
    mode, sampling, upstream, *ports = sys.argv[1:]
    share = parse_sampling(sampling)
    options = replace(
        OPTIONS,
        access_log=parse_request_log(mode, None, None),
        trace_sampling=share,
        trace_export=share is not None,
    )
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        take_everything(theirs)
        os._exit(0)
    theirs.close()
    ours.setblocking(False)
    gc.freeze()  # as waypoint.__main__ does
    known = dict(zip(ADDRESSES, map(int, ports), strict=True))
    uvloop.run(serve(options, ours, int(upstream), known))


if __name__ == "__main__":
    main()
