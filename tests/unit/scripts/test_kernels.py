"""The runner of other kernels, as far as it needs none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.kernels.machine import HERE, Kernel, Outcome, initramfs_modules, newest_of


def test_modules_load_after_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(
        "kernel/fs/9p/9p.ko.xz: kernel/net/9pnet.ko.xz kernel/fs/netfs.ko.xz\n"
        "kernel/net/9pnet.ko.xz:\n"
        "kernel/net/9pnet_virtio.ko.xz: kernel/net/9pnet.ko.xz kernel/virtio.ko.xz\n"
        "kernel/virtio.ko.xz:\n"
        "kernel/fs/netfs.ko.xz:\n"
        "kernel/unwanted.ko.xz:\n"
    )
    kernel = Kernel(release="1", image=tmp_path, modules=tmp_path)
    names = [path.name for path in initramfs_modules(kernel)]
    assert sorted(names) == sorted(set(names))
    assert "unwanted.ko.xz" not in names
    for name, need in (("9p", "9pnet"), ("9p", "netfs"), ("9pnet_virtio", "virtio")):
        assert names.index(f"{need}.ko.xz") < names.index(f"{name}.ko.xz")


def test_the_newest_is_the_highest_number_of_an_ordinary_kernel() -> None:
    names = [
        "linux-image-6.1.0-9-amd64-unsigned",
        "linux-image-6.1.0-56-amd64-unsigned",
        "linux-image-6.1.0-60-cloud-amd64-unsigned",
        "linux-image-6.1.0-61-rt-amd64-unsigned",
        "linux-image-6.1.0-70-amd64",
    ]
    assert newest_of(names) == "linux-image-6.1.0-56-amd64-unsigned"
    assert newest_of([]) is None


def test_a_guest_that_never_began_is_told_from_one_that_failed() -> None:
    assert Outcome(status=1, output="", boot="booted 6.1", seconds=1).has_booted
    assert not Outcome(status=-1, output="", boot="[ 0.1] BUG", seconds=1).has_booted


@pytest.mark.parametrize("name", ["init", "guest"])
def test_the_guests_programs_are_shell(name: str) -> None:
    subprocess.run(["sh", "-n", str(HERE / name)], check=True)
