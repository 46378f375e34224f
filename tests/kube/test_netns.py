"""A real process in a real cgroup and a namespace of its own, found by its pod's uid."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agent.canary import ADDRESS_V4, probe
from agent.kubernetes.netns import NetnsFinder

HOST_NETNS = Path("/proc/self/ns/net")
"""Process 1 of a test machine may be out of reach."""


def unified_root() -> Path:
    """Where cgroup v2 is."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return Path(next(fields[1] for fields in mounts if fields[2] == "cgroup2"))


@contextmanager
def pod_process(uid: str) -> Iterator[int]:
    """A process in the cgroup of a pod, as a runtime leaves it there."""
    group = unified_root() / f"meshnode-test-pod{uid}"
    group.mkdir()
    process = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo ready; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (group / "cgroup.procs").write_text(str(process.pid))
        yield process.pid
    finally:
        process.kill()
        process.communicate()
        group.rmdir()


@pytest.mark.root
def test_the_namespace_of_a_pod_is_found_and_outlives_its_process() -> None:
    uid = str(uuid.uuid4())
    with closing(NetnsFinder(host_netns=HOST_NETNS)) as finder:
        with pod_process(uid) as pid:
            path = finder.find({uid})[uid]
            assert os.stat(path).st_ino == os.stat(f"/proc/{pid}/ns/net").st_ino
            assert os.stat(path).st_ino != os.stat(HOST_NETNS).st_ino
            inside = subprocess.run(
                ["nsenter", f"--net={path}", "ip", "-o", "link"],
                capture_output=True,
                text=True,
                check=True,
            )
            assert inside.stdout.count("\n") == 1
        assert finder.find({uid}) == {}


@pytest.mark.root
@pytest.mark.parametrize("own", ["192.0.2.7", "2001:db8::7"])
def test_a_namespace_without_the_address_of_the_pod_is_not_believed(own: str) -> None:
    """Whatever answers there: here nothing does, so that an address is all that is found."""
    uid = str(uuid.uuid4())
    with pod_process(uid) as pid:
        path = f"/proc/{pid}/ns/net"

        def ip(*command: str) -> None:
            subprocess.run(["nsenter", f"--net={path}", "ip", *command], check=True)

        ip("link", "set", "lo", "up")
        answer = probe(path, ADDRESS_V4, 1, [own])
        assert answer == f"the namespace that was found has no address {own}"
        ip("addr", "add", own, "dev", "lo")
        answer = probe(path, ADDRESS_V4, 1, ["198.51.100.1", own])
        assert answer.startswith("a connection from inside the pod was not captured")
