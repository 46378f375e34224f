"""Programs inside the lab: run one to its end, or start one and hold it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.system import NETNS_ROOT, eventually, listening_ports

LAUNCHER = Path(__file__).with_name("launch.py")

CLEAN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
}
"""All a program in a pod inherits: no proxy settings, no paths of the caller."""

NOBODY = 65534
AS_NOBODY = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)
"""Before a command: without privilege, but able to read a clone that is closed to others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a program runs: a cgroup directory and the name of a network namespace."""

    cgroup: Path
    netns: str

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` in this place."""
        launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())]
        return [*launcher, str(self.cgroup), str(NETNS_ROOT / self.netns), *argv]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A program that has ended."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    def check(self) -> Result:
        """Itself, if the program succeeded; else AssertionError with all it said."""
        assert self.status == 0, (
            f"{' '.join(self.argv)} ended with {self.status}\n{self.stdout}{self.stderr}"
        )
        return self


def run(
    place: Place,
    argv: Sequence[str],
    *,
    stdin: str = "",
    timeout_s: float = 20.0,
    env: Mapping[str, str] | None = None,
) -> Result:
    """Run a program to its end; after `timeout_s` seconds it is killed and status is -9."""
    child = subprocess.Popen(
        place.wrap(argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**CLEAN_ENVIRONMENT, **(env or {})},
        start_new_session=True,  # Ctrl-C is for the lab, which then ends its programs in order
    )
    with child:
        try:
            stdout, stderr = child.communicate(stdin, timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            stdout, stderr = child.communicate()
            stderr += f"(killed after {timeout_s} s)\n"
        except BaseException:
            child.kill()
            raise
    return Result(argv=tuple(argv), status=child.returncode, stdout=stdout, stderr=stderr)


class Process:
    """A program running in the background, its output in a file.

    It dies with the thread that started it (PR_SET_PDEATHSIG is per thread): start it on a thread
    that outlives it.
    """

    def __init__(
        self,
        place: Place,
        argv: Sequence[str],
        log_file: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.argv = tuple(argv)
        self.log_file = log_file
        self._place = place
        with log_file.open("ab") as log:
            self._child = subprocess.Popen(
                place.wrap(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**CLEAN_ENVIRONMENT, **(env or {})},
                start_new_session=True,
            )

    def __repr__(self) -> str:
        state = "running" if self.running else f"ended with {self._child.returncode}"
        return f"<Process {self.pid} {self.argv[0]} {state}>"

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    @property
    def output(self) -> str:
        """All it has written so far, both streams."""
        return self.log_file.read_text(errors="replace")

    def wait_output(self, text: str, deadline_s: float = 30.0) -> None:
        """Wait until it has written `text`; AssertionError if it ends or stays silent."""
        self._wait(lambda: text in self.output, deadline_s, f"says {text!r}")

    def wait_listening(self, port: int, deadline_s: float = 30.0) -> None:
        """Wait until somebody listens on `port` in its namespace."""
        netns = self._place.netns
        self._wait(lambda: port in listening_ports(netns), deadline_s, f"listens on {port}")

    def wait(self, deadline_s: float = 60.0) -> Result:
        """Wait for its end; AssertionError if it goes on."""
        try:
            status = self._child.wait(deadline_s)
        except subprocess.TimeoutExpired as error:
            text = f"{self!r} goes on after {deadline_s} s:\n{self.output}"
            raise AssertionError(text) from error
        return Result(argv=self.argv, status=status, stdout=self.output, stderr="")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.running:
            self._child.send_signal(number)

    def stop(self, deadline_s: float = 5.0) -> int:
        """End it politely, after `deadline_s` seconds by force; its exit status. Idempotent."""
        self.signal(signal.SIGTERM)
        try:
            return self._child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """kill -9; its exit status. Idempotent."""
        self.signal(signal.SIGKILL)
        return self._child.wait(30.0)

    def _wait(self, check: Callable[[], bool], deadline_s: float, what: str) -> None:
        def ready() -> bool:
            return check() or not self.running

        try:
            eventually(ready, deadline_s, what)
        except AssertionError as error:
            raise AssertionError(f"{self!r}: {error}\n{self.output}") from error
        assert check(), f"{self!r} ended before it {what}:\n{self.output}"
