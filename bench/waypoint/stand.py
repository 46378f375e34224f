"""Server, proxies and load on loopback: the proxy under test has one core, all else the other."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.model import Peer
from bench.plan import Cores
from bench.tools import compile_tool
from bench.waypoint.objects import ADDRESSES, HOST
from bench.waypoint.peers import envoy_config, nginx_config
from mesh.errors import ConfigError
from tests.interop.envoy import find_envoy
from tests.support.processes import free_port

START_S = 20.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A proxy.

    Attributes:
        ports: by port of the service it stands for.
    """

    process: subprocess.Popen[bytes]
    ports: Mapping[int, int]

    def pids(self) -> list[int]:
        """The process and its children."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def cpu_s(self) -> float:
        """User and system time so far, to the nanosecond where the scheduler counts it."""
        return sum(_cpu_s(pid) for pid in self.pids())

    def resident_bytes(self) -> int:
        return sum(_resident(pid) for pid in self.pids())


def _cpu_s(pid: int) -> float:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _resident(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


class Stand:
    """What is running; `peers` are those that this machine has."""

    def __init__(self, cores: Cores, tools: Path, folder: Path) -> None:
        self._cores = cores
        self._tools = tools
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.upstream = free_port()
        self.proxies: dict[Peer, Running] = {}

    def start(self) -> None:
        """Start the server and every proxy; raise `ConfigError` if load generators are missing."""
        for program in ("wrk", "h2load"):
            if shutil.which(program) is None:
                raise ConfigError(f"{program} is missing: run `make setup`")
        serve = compile_tool("http_serve", self._tools, libraries=("nghttp2",))
        self._launch([str(serve), str(self.upstream)], self._cores.client)
        wait_for(self.upstream)
        self._start_ours()
        if find_envoy() is not None:
            self._start_envoy()
        if shutil.which("nginx") is not None:
            self._start_nginx()

    def close(self) -> None:
        self._stack.close()

    def peers(self, port: int) -> list[Peer]:
        """Who stands for a port of the service."""
        return [peer for peer, running in self.proxies.items() if port in running.ports]

    def load(self, argv: Sequence[str], timeout_s: float) -> str:
        """Run a load generator beside the server."""
        command = ["taskset", "-c", str(self._cores.client), *argv]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
        return done.stdout

    def file(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(content)
        return path

    def _start_ours(self) -> None:
        ports = {port: free_port() for port in ADDRESSES}
        argv = [sys.executable, "-m", "bench.waypoint.worker", str(self.upstream)]
        self._proxy(Peer.OURS, [*argv, *map(str, ports.values())], ports)

    def _start_envoy(self) -> None:
        ports = {port: free_port() for port in ADDRESSES}
        path = self._folder / "envoy.json"
        path.write_text(json.dumps(envoy_config(self.upstream, ports)))
        argv = [find_envoy() or "", "-c", str(path), "--concurrency", "1", "-l", "error"]
        self._proxy(Peer.ENVOY, [*argv, "--disable-hot-restart"], ports)

    def _start_nginx(self) -> None:
        ports = {80: free_port()}
        (self._folder / "nginx.conf").write_text(nginx_config(self.upstream, ports[80]))
        argv = ["nginx", "-p", str(self._folder), "-c", "nginx.conf"]
        self._proxy(Peer.NGINX, argv, ports)

    def _proxy(self, peer: Peer, argv: Sequence[str], ports: Mapping[int, int]) -> None:
        process = self._launch(argv, proxy_core(self._cores))
        self.proxies[peer] = Running(process=process, ports=ports)
        for port in ports.values():
            wait_for(port)

    def _launch(self, argv: Sequence[str], core: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["taskset", "-c", str(core), *argv])
        self._stack.callback(_stop, process)
        return process


def proxy_core(cores: Cores) -> int:
    """A core that neither server nor load use, where there is one."""
    return next((core for core in reversed(cores.all) if core != cores.client), cores.client)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(port: int) -> None:
    """Until something listens. Raises `ConfigError`."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        time.sleep(0.05)
    raise ConfigError(f"nothing listens on {port}")


@contextlib.contextmanager
def build_stand(cores: Cores, tools: Path) -> Iterator[Stand]:
    """Start everything; all of it is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="mn-bench-") as folder:
        Path(folder).chmod(0o755)  # nginx's worker is nobody
        stand = Stand(cores, tools, Path(folder))
        try:
            stand.start()
            yield stand
        finally:
            stand.close()
