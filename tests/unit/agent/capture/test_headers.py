from __future__ import annotations

import platform
from pathlib import Path

import pytest

from agent.capture.headers import find_headers
from mesh.errors import KernelError

VERSION = "include/generated/uapi/linux/version.h"


def make(directory: Path, *files: str) -> Path:
    for name in files:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#define LINUX_VERSION_CODE 393216\n", encoding="ascii")
    return directory


WHOLE = ("include/linux/kconfig.h", "include/generated/autoconf.h", VERSION)


def test_own_build_tree_comes_first(tmp_path: Path) -> None:
    make(tmp_path / "usr/src/linux-headers-9.9.0-1-amd64", *WHOLE)
    own = make(tmp_path / "lib/modules/6.1.0/build", *WHOLE)
    tree = find_headers("6.1.0", {}, tmp_path)
    assert (tree.source, tree.generated, tree.version_code) == (own, own, 393216)


def test_newest_package_by_number_not_by_text(tmp_path: Path) -> None:
    for version in ("6.1.0-9-amd64", "6.1.0-50-amd64", "5.10.0-99-amd64"):
        make(tmp_path / f"usr/src/linux-headers-{version}", *WHOLE)
    assert find_headers("6.18.0", {}, tmp_path).source.name == "linux-headers-6.1.0-50-amd64"


def test_debian_splits_its_tree(tmp_path: Path) -> None:
    packages = tmp_path / "usr/src"
    make(packages / "linux-headers-6.1.0-50-cloud-amd64", *WHOLE[1:])
    make(packages / "linux-headers-6.1.0-50-common", *WHOLE[:1])
    tree = find_headers("6.18.0", {}, tmp_path)
    assert tree.source.name == "linux-headers-6.1.0-50-common"
    assert f"-I{tree.generated}/include" in tree.cflags
    assert tree.environment == {"BCC_KERNEL_SOURCE": str(tree.source)}
    assert platform.machine() != "x86_64" or any("arch/x86/" in flag for flag in tree.cflags)


@pytest.mark.parametrize(
    ("generated", "source"),
    [
        ("linux-headers-6.12.107+deb13-cloud-amd64", "linux-headers-6.12.107+deb13-common"),
        ("linux-headers-6.8.0-31-generic", "linux-headers-6.8.0-31"),
    ],
)
def test_other_releases_split_it_by_other_names(
    tmp_path: Path, generated: str, source: str
) -> None:
    make(tmp_path / "usr/src" / generated, *WHOLE[1:])
    make(tmp_path / "usr/src" / source, *WHOLE[:1])
    assert find_headers("6.18.0", {}, tmp_path).source.name == source


def test_given_tree_is_taken_or_refused(tmp_path: Path) -> None:
    make(tmp_path / "lib/modules/6.1.0/build", *WHOLE)
    given = make(tmp_path / "mine", *WHOLE)
    assert find_headers("6.1.0", {"BCC_KERNEL_SOURCE": str(given)}, tmp_path).source == given
    with pytest.raises(KernelError, match="no kernel headers"):
        find_headers("6.1.0", {"BCC_KERNEL_SOURCE": str(tmp_path / "none")}, tmp_path)


def test_nothing_found_names_the_package(tmp_path: Path) -> None:
    make(tmp_path / "usr/src/linux-headers-6.1.0-50-amd64", *WHOLE[1:])
    with pytest.raises(KernelError, match="apt install linux-headers"):
        find_headers("6.1.0", {}, tmp_path)
