"""Two nodes with running agents, three pods, STRICT; and the ways to hurt them.

`client` and `near` are on node a, `far` is on node b. What a client sends in these tests is a
`SECRET`, which must never be readable on the wire.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.capture.pins import open_map
from agent.capture.table import Table
from agent.holder.daemon import running_pid
from tests.lab import Agent, Lab, Node, Pod, Process, eventually
from tests.lab.objects import peer_authentication
from tests.lab.system import start_ticks

PROGRAMS = Path(__file__).with_name("programs")
PORT = 8080
NEVER_LONGER_S = 20.0
OPTIONS = ("--access-log", "json", "--workers", "2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How one exchange ended, seen by the client; see `programs/ask.py`."""

    end: str
    seconds: float

    @property
    def failed_fast(self) -> bool:
        """Told so, and in time: neither served nor left hanging."""
        told = self.end in ("refused", "reset", "closed", "timeout")
        return told and self.seconds <= NEVER_LONGER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Churned:
    """How the connections of `programs/churn.py` ended; `seconds`: while they were opened."""

    ends: Mapping[str, int]
    bad: list[tuple[float, float, str]]
    slowest: float
    seconds: float

    @property
    def total(self) -> int:
        return sum(self.ends.values())

    def check_all_served(self) -> Churned:
        assert not self.bad, f"{len(self.bad)} of {self.total} were not served: {self.bad[:20]}"
        assert self.total >= 200
        print(f"{self.total} connections, slowest {self.slowest:.3f} s")  # shown by pytest -rP
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """How the connection of `programs/hold.py` ended."""

    end: str
    longest: float
    count: int
    seconds: float


class Holding:
    """A running `programs/hold.py`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        process.wait_output("held", 30.0)

    @property
    def running(self) -> bool:
        return self._process.running

    def result(self, *, stop: bool = True) -> Held:
        if stop:
            self._process.signal(signal.SIGTERM)
        return Held(**json.loads(self._process.wait(60.0).stdout.splitlines()[-1]))


class World:
    """The scene of most tests here."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.namespace("default", enrolled=True)
        self.a, self.b = lab.node("a"), lab.node("b")
        self.client, self.near, self.far = (
            self.a.pod("client"),
            self.a.pod("near"),
            self.b.pod("far"),
        )
        self.strict()
        for pod in (self.near, self.far):
            serve(pod)

    def start(self, *options: str) -> None:
        """Start both agents."""
        self.lab.start_agents(*OPTIONS, *options)

    def strict(self) -> None:
        self.lab.apply("mtls", peer_authentication("default", "default", mode="STRICT"))

    def ask(self, address: str, text: str = "hello", *, frm: Pod | None = None) -> Asked:
        """Send a text to the echo server at `address` and want it back."""
        return ask(frm or self.client, address, text)

    def check_served(self) -> None:
        """Both paths work."""

        def served() -> bool:
            ends = [self.ask(pod.address4).end for pod in (self.near, self.far)]
            assert ends == ["ok", "ok"], f"direct, tunnelled: {ends}"
            return True

        eventually(served, 30.0, "both paths work")

    @contextmanager
    def churn(self, address: str, rate: int = 130) -> Iterator[list[Churned]]:
        """Short connections from `client` while the block runs; the list then has the result."""
        results: list[Churned] = []
        argv = [str(PROGRAMS / "churn.py"), address, str(PORT), str(rate)]
        process = self.client.start([sys.executable, *argv])
        try:
            process.wait_output("going")
            yield results
            process.signal(signal.SIGTERM)
            results.append(Churned(**json.loads(process.wait(60.0).stdout.splitlines()[-1])))
        finally:
            process.kill()

    def hold(self, address: str, *, frm: Pod | None = None) -> Holding:
        """A connection that stays open."""
        argv = [sys.executable, str(PROGRAMS / "hold.py"), address, str(PORT)]
        return Holding((frm or self.client).start(argv))

    def check_never_plain(self, attack: Callable[[str], None]) -> None:
        """Run `attack` with a secret text, and prove that the wire never showed it."""
        secret = secrets.token_hex(16)
        with self.lab.capture() as capture:
            attack(secret)
            capture.fence()
            assert not capture.contains(secret.encode()), "the secret crossed the wire in plaintext"


def serve(pod: Pod, port: int = PORT) -> None:
    """An echo server in the pod."""
    argv = [sys.executable, str(PROGRAMS / "echo.py"), str(port)]
    pod.start(argv).wait_listening(port)


def ask(pod: Pod, address: str, text: str, port: int = PORT) -> Asked:
    argv = [sys.executable, str(PROGRAMS / "ask.py"), address, str(port), text]
    return Asked(**json.loads(pod.run(argv, timeout_s=40.0).check().stdout))


def start_agent(node: Node, *options: str) -> Agent:
    """Start the node's agent with two workers and a JSON access log."""
    return node.agent(*OPTIONS, *options)


def agent_of(node: Node) -> Agent:
    assert node.running_agent is not None
    return node.running_agent


def worker_pids(node: Node) -> list[int]:
    """Living workers of the node, draining ones of an earlier agent too."""
    directory = node.paths.workers_dir
    names = [int(entry.name) for entry in directory.iterdir()] if directory.is_dir() else []
    return [pid for pid in names if start_ticks(pid)]


def holder_pid(node: Node) -> int:
    """Process id of the node's holder; 0 if none runs."""
    return running_pid(node.paths) or 0


def kill9(*pids: int) -> None:
    """kill -9 and wait until they are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(start_ticks(pid) for pid in pids), 30.0, f"{pids} are gone")


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """SIGSTOP the processes while the block runs."""
    with ExitStack() as thaw:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            thaw.callback(_thaw, pid)
        yield


def _thaw(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


@contextmanager
def opened_map(node: Node, name: str) -> Iterator[Table]:
    """A pinned map of the node, by raw bpf(2)."""
    table = open_map(node.paths, name)
    try:
        yield table
    finally:
        table.close()
