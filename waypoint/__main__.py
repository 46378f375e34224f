"""`python -m waypoint`: one worker, started by the supervisor; serves without any privilege."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import socket
import sys
from random import Random

import uvloop

from mesh.errors import MeshnodeError
from mesh.jwt.fetch import KeyFetcher, KeyRing
from mesh.model.identity import parse_spiffe_id
from mesh.privilege import drop_privileges, install_seccomp, worker_ids
from mesh.telemetry.request_log import LogMode, RequestLog
from mesh.tunnel.contract import TunnelSettings
from mesh.tunnel.select import EngineFactory, best_engine, engine_factory, parse_engine
from waypoint.limits import ProxyLimits
from waypoint.parts import WorkerOptions
from waypoint.resilience.protection import Vantage
from waypoint.shared.select import open_sharing
from waypoint.worker import Worker


def parse_arguments() -> argparse.Namespace:
    """The command line; only the supervisor writes it."""
    parser = argparse.ArgumentParser(prog="waypoint")
    parser.add_argument("--name", required=True)
    parser.add_argument("--identity", required=True)
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--access-log", required=True)
    parser.add_argument("--access-log-share", type=float, required=True)
    parser.add_argument("--access-log-rate", type=float)
    parser.add_argument("--trace-sampling", type=float)
    parser.add_argument("--trace-export", action="store_true")
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--expired-grace-s", type=float, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--listener-fd", type=int, required=True)
    parser.add_argument("--limits-fd", type=int)
    parser.add_argument("--engine", default=os.environ.get("MESHNODE_TUNNEL_ENGINE", ""))
    return parser.parse_args()


async def serve(arguments: argparse.Namespace, new_engine: EngineFactory) -> None:
    """Run one worker to its end."""
    control = socket.socket(fileno=arguments.control_fd)
    listener = socket.socket(fileno=arguments.listener_fd)
    for sock in (control, listener):
        sock.setblocking(False)
    options = WorkerOptions(
        waypoint=arguments.name,
        identity=parse_spiffe_id(arguments.identity),
        cluster=arguments.cluster,
        access_log=RequestLog(
            mode=LogMode(arguments.access_log),
            share=arguments.access_log_share,
            rate_per_s=arguments.access_log_rate,
        ),
        trace_sampling=arguments.trace_sampling,
        trace_export=arguments.trace_export,
        expired_grace_s=arguments.expired_grace_s,
        vantage=Vantage(
            node=arguments.node,
            workers=arguments.workers,
            sharing=open_sharing(arguments.limits_fd, arguments.index),
        ),
    )
    engine = new_engine(asyncio.get_running_loop(), TunnelSettings())
    fetcher = KeyFetcher()
    try:
        async with KeyRing(fetcher, Random()).run() as keys, asyncio.TaskGroup() as tasks:
            await Worker(options, engine, tasks, ProxyLimits(), keys).run(control, listener)
    finally:
        await fetcher.close()


def main() -> int:
    """Drop every privilege there may be, then serve."""
    arguments = parse_arguments()
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)s waypoint[{arguments.index}] %(message)s",
    )
    try:
        name = arguments.engine
        new_engine = engine_factory(parse_engine(name) if name else best_engine())
        if os.geteuid() == 0:
            drop_privileges(*worker_ids())
        install_seccomp(allow_sockets=True)
        gc.freeze()  # objects of start-up live for ever
        uvloop.run(serve(arguments, new_engine))
    except MeshnodeError as error:
        print(f"waypoint: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
