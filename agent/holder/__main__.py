"""`python -m agent.holder`: run the holder of one node."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from agent.holder.daemon import (
    Background,
    control_socket,
    holder_lock,
    join_cgroup,
    prepare_run_dir,
    raise_file_limit,
    stop_signals,
)
from agent.holder.server import HolderServer
from agent.paths import NodePaths
from mesh.errors import MeshnodeError

DEFAULT_GRACE_S = 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM. Exit status: 0 done, 1 could not start, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        return _fail("it must run as root: it enters the pods' network namespaces")
    background = None
    try:
        paths = NodePaths(options.node)
        prepare_run_dir(paths)
        if options.daemon:
            background = Background.detach(options.log or paths.run_dir / "holder.log")
        _run(paths, options.cgroup, options.grace, background)
    except (MeshnodeError, OSError) as error:
        if background is not None:
            background.failed(str(error))
        return _fail(str(error))
    return 0


def _run(
    paths: NodePaths, cgroup: Path | None, grace_s: float, background: Background | None
) -> None:
    with ExitStack() as stack:
        stack.enter_context(holder_lock(paths))
        if cgroup is not None:
            join_cgroup(cgroup)
        raise_file_limit()
        stop_fd = stack.enter_context(stop_signals())
        control = stack.enter_context(control_socket(paths))
        server = HolderServer(control, grace_s=grace_s, clock=time.monotonic, log=_log)
        _log(f"serving node {paths.node} as process {os.getpid()}")
        if background is not None:
            background.ready()
        server.run(stop_fd)
        _log("stopped: all listeners closed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="meshnode holder", description="Own the listeners of a node's pods."
    )
    parser.add_argument("--node", required=True, help="name of the node")
    parser.add_argument("--cgroup", type=Path, help="cgroup v2 directory to move into")
    parser.add_argument("--daemon", action="store_true", help="return when it serves")
    parser.add_argument("--log", type=Path, help="with --daemon: where its log goes")
    parser.add_argument(
        "--grace",
        type=float,
        default=DEFAULT_GRACE_S,
        help="seconds without a worker before waiting connections are reset (%(default)s)",
    )
    return parser


def _log(text: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f"{stamp} holder {text}", file=sys.stderr, flush=True)


def _fail(text: str) -> int:
    print(f"meshnode holder: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
