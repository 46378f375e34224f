"""`make demo` as a person runs it: told to stop, refused, and what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.agent import REPOSITORY
from tests.lab.record import RECORD_ROOT
from tests.lab.system import NETNS_ROOT, cgroup2_mount

pytestmark = pytest.mark.root

NAME = f"mnt-demo-{os.getpid()}"


def start_demo() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "tests.demo", "--name", NAME],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=REPOSITORY,
    )


@pytest.fixture
def demo() -> Iterator[subprocess.Popen[str]]:
    with start_demo() as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)  # kill -9 would leave the lab to the next sweep
            process.communicate(timeout=60)


def wait_line(process: subprocess.Popen[str], wanted: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if wanted in line:
            return
    pytest.fail(f"no {wanted!r} in:\n{''.join(seen)}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_it_clears_up(demo: subprocess.Popen[str], number: signal.Signals) -> None:
    wait_line(demo, "1. Two agents start")
    demo.send_signal(number)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    assert "everything was removed" in output
    roots = (NETNS_ROOT, cgroup2_mount(), RECORD_ROOT, Path("/run/meshnode"))
    assert [str(path) for root in roots for path in root.glob(f"*{NAME}*")] == []


def test_two_at_once_are_refused(demo: subprocess.Popen[str]) -> None:
    wait_line(demo, "Two nodes")
    with start_demo() as second:
        output, _ = second.communicate(timeout=30)
    assert second.returncode == 1
    assert f"lab {NAME} is in use by process {demo.pid}" in output
