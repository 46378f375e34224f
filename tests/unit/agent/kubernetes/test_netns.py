"""Pods' namespaces from a process file system made of plain files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.kubernetes.netns import NetnsFinder, pod_uid_of
from mesh.errors import KernelError

UID = "0a1b2c3d-1111-4222-8333-444455556666"
OTHER = "ffffffff-1111-4222-8333-444455556666"
SLICE = UID.replace("-", "_")


@pytest.mark.parametrize(
    "path",
    [
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice/cri-containerd-1.scope",
        f"/kubepods.slice/kubepods-pod{SLICE}.slice/crio-9.scope",
        f"/kubepods/besteffort/pod{UID}/0123abcd",
        f"/kubepods/pod{UID}",
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SLICE}.slice/cri-containerd-1.scope",
        f"/../../kubepods-besteffort.slice/kubepods-besteffort-pod{SLICE}.slice/cri-containerd-1.scope",
        f"/kubepods/pod{UID}/abc/kubepods/pod{OTHER}/forged-from-inside",
    ],
)
def test_every_driver_and_runtime_names_the_pod(path: str) -> None:
    assert pod_uid_of(f"0::{path}\n") == UID
    assert pod_uid_of(f"12:memory:{path}\n11:cpu,cpuacct:{path}\n1:name=systemd:/\n") == UID


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0::/system.slice/containerd.service",
        f"0::/kubepods/xpod{UID}x/1",
        f"0::/kubepods/pod{UID}0/1",
        "0::/kubepods/pod0a1b2c3d/1",
        f"2:cpu:/kubepods/pod{UID}/1\n1:memory:/kubepods/pod{OTHER}/1",
        "garbage",
    ],
)
def test_a_process_of_no_pod(text: str) -> None:
    assert pod_uid_of(text) == ""


class Proc:
    """A /proc of files; inode numbers stand for namespaces."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.namespaces = root / "namespaces"
        self.namespaces.mkdir(parents=True)
        (root / "self").symlink_to("77")
        (root / "version").write_text("not a process")
        self.add(1, "host", "/init.scope", started=0)

    def add(self, pid: int, netns: str, cgroup: str, *, started: int) -> None:
        """A process, or another one with the number of an earlier one."""
        folder = self.root / str(pid)
        (folder / "ns").mkdir(parents=True, exist_ok=True)
        (folder / "cgroup").write_text(f"0::{cgroup}\n")
        middle = " ".join(["S", *["0"] * 18])
        (folder / "stat").write_text(f"{pid} (a ) odd) {middle} {started} 0 0\n")
        target = self.namespaces / netns
        target.touch()
        link = folder / "ns" / "net"
        link.unlink(missing_ok=True)
        link.symlink_to(target)

    def end(self, pid: int) -> None:
        (self.root / str(pid) / "stat").unlink()

    def inode(self, netns: str) -> int:
        return (self.namespaces / netns).stat().st_ino


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path / "proc")


@pytest.fixture
def finder(proc: Proc) -> Iterator[NetnsFinder]:
    made = NetnsFinder(proc.root)
    with closing(made):
        yield made


def opened(finder: NetnsFinder, uid: str = UID) -> int | None:
    """The inode behind the path that is given out; None without a path."""
    path = finder.find({uid}).get(uid)
    if path is None:
        return None
    folder, fd = os.path.split(path)
    assert folder.endswith("/77/fd")
    return os.fstat(int(fd)).st_ino


def test_the_oldest_process_is_the_sandbox(proc: Proc, finder: NetnsFinder) -> None:
    proc.add(30, "inner", f"/kubepods/pod{UID}/app", started=200)
    proc.add(40, "pod", f"/kubepods/pod{UID}/pause", started=100)
    assert opened(finder) == proc.inode("pod")


def test_a_monitor_in_the_namespace_of_the_host_is_passed_over(
    proc: Proc, finder: NetnsFinder
) -> None:
    proc.add(30, "host", f"/kubepods/pod{UID}/conmon", started=50)
    assert opened(finder) is None
    proc.add(40, "pod", f"/kubepods/pod{UID}/pause", started=100)
    assert opened(finder) == proc.inode("pod")


def test_a_number_that_passes_to_another_pod_is_not_followed(
    proc: Proc, finder: NetnsFinder
) -> None:
    proc.add(30, "pod", f"/kubepods/pod{UID}/pause", started=100)
    assert opened(finder) == proc.inode("pod")
    proc.add(30, "stranger", f"/kubepods/pod{OTHER}/pause", started=300)
    assert opened(finder) is None


def test_a_sandbox_made_anew_is_found(proc: Proc, finder: NetnsFinder) -> None:
    proc.add(30, "pod", f"/kubepods/pod{UID}/pause", started=100)
    first = opened(finder)
    proc.end(30)
    assert opened(finder) is None
    proc.add(31, "second", f"/kubepods/pod{UID}/pause", started=200)
    assert opened(finder) == proc.inode("second") != first


def test_a_process_that_was_on_its_way_into_the_pod_is_followed(
    proc: Proc, finder: NetnsFinder
) -> None:
    proc.add(30, "elsewhere", f"/kubepods/pod{UID}/pause", started=100)
    assert opened(finder) == proc.inode("elsewhere")
    proc.add(30, "pod", f"/kubepods/pod{UID}/pause", started=100)
    assert opened(finder) == proc.inode("pod")
    (proc.root / "30" / "ns" / "net").unlink()
    assert opened(finder) == proc.inode("pod")


def test_pods_that_nobody_asks_for_are_let_go(proc: Proc, finder: NetnsFinder) -> None:
    proc.add(30, "pod", f"/kubepods/pod{UID}/pause", started=100)
    fd = int(os.path.basename(finder.find({UID})[UID]))
    assert finder.find(set()) == {}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_host_that_cannot_be_looked_at_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("77")
    with pytest.raises(KernelError, match="hostPID"):
        NetnsFinder(tmp_path)
