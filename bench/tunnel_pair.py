"""Tunnel engines as a pair of proxies on loopback, beside an Envoy HBONE pair.

`python -m bench.tunnel_pair [--what flow|rtt] [--number N] [--rounds N] [native python envoy]`.

Client proxy and load generator share one core, server proxy and server the other. No capture, no
policy, no records: what is left is the engine. Order alternates, medians are printed; on a busy
machine give it an edge with `nice -n -15`, and believe ratios and CPU only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import envoy
from bench.plan import own_cores
from bench.tools import compile_tool
from bench.tunnel_proxy import ProxySettings, command
from tests.support.certs import TestCa, spiffe

_CLIENT, _SERVER = spiffe("client"), spiffe("server")
_ENVOY = "envoy"
_WARM_SHARE = 10 / 9
"""load.c does not count the first tenth of the bytes."""


# --- the pairs ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two running proxies.

    Attributes:
        port: where the load goes.
        pids: of the client's and the server's side.
    """

    port: int
    pids: tuple[int, int]

    def cpu_s(self) -> float:
        ticks = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


Start = Callable[[Sequence[str], int], int]


def start_pair(name: str, app: int, folder: Path, start: Start) -> Pair:
    """Start both proxies in front of `app` and wait until they listen."""
    cores, near, far = own_cores(), _free_port(), _free_port()
    sides = (("server", far, app, cores.far_proxy), ("client", near, far, cores.near_proxy))
    pids = []
    for number, (role, listen, upstream, core) in enumerate(sides):
        said = _envoy_command if name == _ENVOY else _engine_command
        pids.append(start(said(name, role, (listen, upstream), folder, number), core))
        _wait_listening(listen)
    return Pair(port=near, pids=(pids[1], pids[0]))


def _engine_command(
    name: str, role: str, ports: tuple[int, int], folder: Path, _number: int
) -> list[str]:
    settings = ProxySettings(
        engine=name,
        credentials=pickle.loads((folder / role).read_bytes()),
        expects=frozenset((_SERVER,)) if role == "client" else frozenset(),
        listen=[("127.0.0.1", ports[0], "192.0.2.1:80")],
        next=("127.0.0.1", ports[1]),
    )
    return command(settings, folder / f"{name}-{role}")


def _envoy_command(
    _name: str, role: str, ports: tuple[int, int], folder: Path, number: int
) -> list[str]:
    client = role == "client"
    side = envoy.Side(
        hops=[envoy.Hop(listen=("127.0.0.1", ports[0]), upstream=("127.0.0.1", ports[1]))],
        credentials=pickle.loads((folder / role).read_bytes()),
        peers=[_SERVER if client else _CLIENT],
        hbone=True,
    )
    own = folder / f"envoy-{role}"
    own.mkdir()
    config = (envoy.client_config if client else envoy.server_config)(side, own)
    return [*envoy.command(config, own), "--base-id", str(os.getpid() + number)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _wait_listening(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


# --- measuring ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _processes() -> Iterator[Start]:
    """Start processes on a core; end them all on leaving."""
    running: list[subprocess.Popen[bytes]] = []

    def start(command: Sequence[str], core: int) -> int:
        running.append(subprocess.Popen(["taskset", "-c", str(core), *command]))
        return running[-1].pid

    try:
        yield start
    finally:
        for process in running:
            process.kill()
            process.wait()


def measure(pair: Pair, load: Path, what: str, number: int, seconds: float) -> dict[str, float]:
    before = pair.cpu_s()
    command = [str(load), what, "127.0.0.1", str(pair.port), str(number), str(seconds)]
    pinned = ["taskset", "-c", str(own_cores().client), *command]
    said = json.loads(subprocess.run(pinned, capture_output=True, check=True).stdout)
    if what == "rtt":
        return {"p50 us": said["p50_us"], "p99 us": said["p99_us"]}
    gigabytes = said["bytes"] / 1e9 * _WARM_SHARE
    return {"Gb/s": said["gbit_per_s"], "CPU s/GB": (pair.cpu_s() - before) / gigabytes}


def compare(names: list[str], options: argparse.Namespace) -> None:
    ca, found = TestCa(), {name: list[dict[str, float]]() for name in names}
    with tempfile.TemporaryDirectory() as place, _processes() as start:
        folder = Path(place)
        for identity in (_CLIENT, _SERVER):
            path = folder / identity.service_account
            path.write_bytes(pickle.dumps(ca.issue(identity)))
        app, load = _free_port(), compile_tool("load", folder)
        start([str(compile_tool("serve", folder)), str(app)], own_cores().server)
        _wait_listening(app)
        pairs = {name: start_pair(name, app, folder, start) for name in names}
        for turn in range(options.rounds):
            for name in names if turn % 2 == 0 else names[::-1]:
                result = measure(pairs[name], load, options.what, options.number, options.seconds)
                found[name].append(result)
    print(f"{'':12}" + "".join(f"{name:>12}" for name in names))
    for metric in found[names[0]][0]:
        medians = (statistics.median(one[metric] for one in found[name]) for name in names)
        print(f"{metric:12}" + "".join(f"{value:12.2f}" for value in medians))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", nargs="*", help="native, python, envoy (default: all)")
    parser.add_argument("--what", choices=("flow", "rtt"), default="flow")
    parser.add_argument("--number", type=int, default=1, help="streams of flow, bytes of rtt")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    compare(options.pairs or ["native", "python", _ENVOY], options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
