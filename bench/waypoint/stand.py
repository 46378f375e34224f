"""Server, proxies and load on loopback: the proxy under test has one core, all else the other."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.machine import ROOT
from bench.model import Peer
from bench.plan import Cores
from bench.tools import compile_tool
from bench.waypoint.load import HttpLoad, parse_said
from bench.waypoint.objects import ADDRESSES, HOST
from bench.waypoint.peers import envoy_config, haproxy_config, nginx_config
from mesh.errors import ConfigError
from tests.interop.envoy import Json, find_envoy
from tests.support.processes import free_port

START_S = 20.0
LOAD_PATIENCE_S = 30.0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How a proxy is started.

    Attributes:
        ports: by port of the service, where clients go.
        listens: what it listens on when it is ready.
    """

    argv: Sequence[str]
    ports: Mapping[int, int]
    listens: Sequence[tuple[str, int]]


class Ground:
    """A server, a load generator, and processes that end with the stand."""

    def __init__(self, cores: Cores, tools: Path, folder: Path) -> None:
        self.cores = cores
        self.folder = folder
        self.upstream = free_port()
        self.stack = contextlib.ExitStack()
        self._load = compile_tool("http_load", tools, libraries=("nghttp2",))
        serve = compile_tool("http_serve", tools, libraries=("nghttp2",))
        try:
            self.launch([str(serve), str(self.upstream)], cores.client)
            wait_for(self.upstream)
        except BaseException:
            self.stack.close()
            raise

    def ask(self, load: HttpLoad, port: int, warm_s: float, seconds: float) -> Mapping[str, float]:
        """Run the load generator beside the server. Raises `RuntimeError` if anything failed."""
        argv = [str(self._load), *load.argv(HOST, port, warm_s, seconds)]
        command = ["taskset", "-c", str(self.cores.client), *argv]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=warm_s + seconds + LOAD_PATIENCE_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
        return parse_said(done.stdout)

    def launch(self, argv: Sequence[str], core: int) -> subprocess.Popen[bytes]:
        """Start a process on a core; it ends with the stand."""
        process = subprocess.Popen(["taskset", "-c", str(core), *argv], cwd=ROOT)
        self.stack.callback(_stop, process)
        return process

    def proxy(self, start: Start) -> Running:
        """Start a proxy on its core; return when it listens."""
        process = self.launch(start.argv, proxy_core(self.cores))
        for host, port in start.listens:
            wait_for(port, host)
        return Running(process=process, ports=start.ports)


class Stand:
    """Proxies without tunnels; `proxies` are those that are wanted."""

    def __init__(self, ground: Ground, peers: Iterable[Peer]) -> None:
        self.ground = ground
        self.proxies = {peer: ground.proxy(self._start(peer)) for peer in peers}

    @contextlib.contextmanager
    def fresh(self, peer: Peer) -> Iterator[Running]:
        """Another one of a proxy, that has served nobody yet."""
        running = self.ground.proxy(self._start(peer))
        try:
            yield running
        finally:
            _stop(running.process)

    def _start(self, peer: Peer) -> Start:
        folder = Path(tempfile.mkdtemp(dir=self.ground.folder))
        folder.chmod(0o755)  # nginx's worker is nobody
        ports = {port: free_port() for port in ADDRESSES}
        upstream = self.ground.upstream
        if peer is Peer.OURS:
            numbers = map(str, (upstream, *ports.values()))
            argv = [sys.executable, "-m", "bench.waypoint.worker", "plain", *numbers]
        elif peer is Peer.ENVOY:
            argv = envoy_command(envoy_config(upstream, ports), folder)
        elif peer is Peer.HAPROXY:
            (folder / "haproxy.cfg").write_text(haproxy_config(upstream, ports))
            argv = ["haproxy", "-db", "-q", "-f", str(folder / "haproxy.cfg")]
        else:
            ports = {80: ports[80]}
            (folder / "nginx.conf").write_text(nginx_config(upstream, ports[80]))
            argv = ["nginx", "-p", str(folder), "-c", "nginx.conf"]
        return Start(argv=argv, ports=ports, listens=[(HOST, port) for port in ports.values()])


def present_peers() -> list[Peer]:
    """Whom this machine has."""
    found = {
        Peer.OURS: True,
        Peer.ENVOY: find_envoy() is not None,
        Peer.NGINX: shutil.which("nginx") is not None,
        Peer.HAPROXY: shutil.which("haproxy") is not None,
    }
    return [peer for peer, there in found.items() if there]


def envoy_command(config: Json, folder: Path) -> list[str]:
    """Write the configuration; the command line that runs Envoy with it."""
    path = folder / "envoy.json"
    path.write_text(json.dumps(config))
    argv = [find_envoy() or "", "-c", str(path), "--concurrency", "1", "-l", "error"]
    return [*argv, "--disable-hot-restart"]


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


def wait_for(port: int, host: str = HOST) -> None:
    """Until something listens. Raises `ConfigError`."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            return
        time.sleep(0.05)
    raise ConfigError(f"nothing listens on {host}:{port}")


@contextlib.contextmanager
def build_ground(cores: Cores, tools: Path) -> Iterator[Ground]:
    """Start the server; it and all that was started beside it is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="mn-bench-") as folder:
        Path(folder).chmod(0o755)  # nginx's worker is nobody
        ground = Ground(cores, tools, Path(folder))
        with ground.stack:
            yield ground
