"""Kernel headers for bcc: any recent tree will do, because only user-space API contexts are read.

bcc compiles inside a header tree and by default accepts only the running kernel's. Here the best
tree on the machine is found and described to bcc through its environment and flags. Debian splits
a tree in two (`-common` with the sources, `-amd64` with the generated files).
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import KernelError

_ARCH = {"x86_64": "x86", "aarch64": "arm64"}
_KCONFIG = "include/linux/kconfig.h"
_AUTOCONF = "include/generated/autoconf.h"
_VERSION = "include/generated/uapi/linux/version.h"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderTree:
    """Where headers are: `source` holds the files, `generated` the configured ones (may be equal).

    `version_code` is the tree's own, as in linux/version.h.
    """

    source: Path
    generated: Path
    version_code: int

    @property
    def cflags(self) -> list[str]:
        """What bcc has to be told beyond `BCC_KERNEL_SOURCE`."""
        arch = _ARCH.get(platform.machine(), platform.machine())
        split = [
            f"-I{self.generated}/arch/{arch}/include/generated",
            f"-I{self.generated}/include",
            f"-I{self.generated}/include/generated/uapi",
            f"-I{self.generated}/arch/{arch}/include/generated/uapi",
        ]
        # Newer trees: 6.7 redefines macros of bcc's own headers, 6.13 asks which compiler it is,
        # 6.19 uses an anonymous-member extension. Older trees do not mind.
        newer = [
            "-DCONFIG_CC_IS_CLANG",
            "-fms-extensions",
            "-Wno-microsoft-anon-tag",
            "-Wno-macro-redefined",
        ]
        return (split if self.generated != self.source else []) + newer

    @property
    def environment(self) -> dict[str, str]:
        """Variables that bcc reads. Its version override is not needed: nothing here depends on
        the version of the headers, and bcc prints a warning for it."""
        return {"BCC_KERNEL_SOURCE": str(self.source)}


def find_headers(
    release: str, environment: Mapping[str, str], root: Path = Path("/")
) -> HeaderTree:
    """The best tree on this machine; raise `KernelError` that names what to install."""
    for candidate in _candidates(release, environment, root):
        tree = _tree_at(candidate)
        if tree is not None:
            return tree
    raise KernelError(
        "no kernel headers",
        hint="Install any recent ones: apt install linux-headers-amd64 (Debian) or"
        " linux-headers-generic (Ubuntu); they need not match the running kernel. Or set"
        " BCC_KERNEL_SOURCE to a header tree.",
    )


def _candidates(release: str, environment: Mapping[str, str], root: Path) -> Iterator[Path]:
    if given := environment.get("BCC_KERNEL_SOURCE"):
        yield Path(given)
        return
    yield root / "lib/modules" / release / "build"
    packaged = [*root.glob("usr/src/linux-headers-*"), *root.glob("usr/src/kernels/*")]
    yield from sorted(packaged, key=lambda path: _version_of(path.name), reverse=True)
    # Headers of other installed kernels, where they are not under /usr/src.
    yield from sorted(root.glob("lib/modules/*/build"), reverse=True)


def _version_of(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))


def _tree_at(path: Path) -> HeaderTree | None:
    """Describe the tree of a directory that has generated files; None if it is of no use."""
    try:
        generated = path.resolve(strict=True)
    except OSError:
        return None
    if not (generated / _AUTOCONF).is_file():
        return None
    source = next((s for s in _sources_of(generated) if (s / _KCONFIG).is_file()), None)
    code = _version_code(generated) or _version_code_of_name(generated.name)
    if source is None or code is None:
        return None
    return HeaderTree(source=source, generated=generated, version_code=code)


def _sources_of(generated: Path) -> Iterator[Path]:
    yield generated
    if (generated / "source").is_dir():
        yield (generated / "source").resolve()
    # Of `linux-headers-6.12.107+deb13-cloud-amd64` any front part may name the other half.
    front = generated.name
    while "-" in (front := front.rpartition("-")[0]):
        yield generated.parent / f"{front}-common"
        yield generated.parent / front


def _version_code(generated: Path) -> int | None:
    try:
        text = (generated / _VERSION).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    match = re.search(r"#define LINUX_VERSION_CODE (\d+)", text)
    return int(match[1]) if match else None


def _version_code_of_name(name: str) -> int | None:
    numbers = _version_of(name)
    if len(numbers) < 2:
        return None
    major, minor, *rest = numbers
    return (major << 16) | (minor << 8) | min(rest[0] if rest else 0, 255)
