"""`python -m agent.ztunnel`: started by the node process as root, serves without any privilege."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import socket
import sys

import uvloop

from agent.ztunnel.worker import Channels, Worker
from mesh.errors import MeshnodeError
from mesh.privilege import drop_privileges, install_seccomp
from mesh.tunnel.contract import TunnelSettings
from mesh.tunnel.select import EngineFactory, best_engine, engine_factory, parse_engine

log = logging.getLogger(__name__)


def parse_arguments() -> argparse.Namespace:
    """The command line; only the node process writes it."""
    parser = argparse.ArgumentParser(prog="agent.ztunnel")
    parser.add_argument("--node", required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--holder-fd", type=int, required=True)
    parser.add_argument("--cgroup", required=True)
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--gid", type=int, required=True)
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--expired-grace-s", type=float, required=True)
    parser.add_argument(
        "--engine",
        default=os.environ.get("MESHNODE_TUNNEL_ENGINE", ""),
        help="tunnel engine: native or python (default: native where it was built)",
    )
    return parser.parse_args()


def choose_engine(name: str) -> EngineFactory:
    """Raises `ConfigError` if there is no such engine or it was not built."""
    engine = parse_engine(name) if name else best_engine()
    if engine == "native":
        log.info("tunnel engine: native")
    elif name:
        log.info("tunnel engine: python, as asked for")
    else:
        log.warning("tunnel engine: python; the native one was not built or cannot be loaded")
    return engine_factory(engine)


async def serve(channels: Channels, new_engine: EngineFactory, expired_grace_s: float) -> None:
    """Run one worker to its end."""
    engine = new_engine(asyncio.get_running_loop(), TunnelSettings())
    async with asyncio.TaskGroup() as tasks:
        await Worker(channels, engine, expired_grace_s, tasks).run()


def main() -> int:
    """Join the agent's cgroup, drop every privilege, serve."""
    arguments = parse_arguments()
    logging.basicConfig(
        level=arguments.log_level.upper(),
        format=f"%(asctime)s %(levelname)s ztunnel[{arguments.index}] %(message)s",
    )
    with open(f"{arguments.cgroup}/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
    try:
        new_engine = choose_engine(arguments.engine)
        drop_privileges(arguments.uid, arguments.gid)
        channels = Channels(
            control=socket.socket(fileno=arguments.control_fd),
            holder=socket.socket(fileno=arguments.holder_fd),
        )
        for channel in (channels.control, channels.holder):
            channel.setblocking(False)
        # From here on no new socket and no new program: all of them are handed in.
        install_seccomp()
        # Objects of start-up live for ever: keep the collector from walking them again.
        gc.freeze()
        uvloop.run(serve(channels, new_engine, arguments.expired_grace_s))
    except MeshnodeError as error:
        print(f"ztunnel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
