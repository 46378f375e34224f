"""Boots a Debian kernel in QEMU on this machine's root file system and runs one command in it.

Nothing is installed into the guest: it sees the root read-only (9p) with a tmpfs above. Kernel
packages are only unpacked. No hardware virtualisation is needed, so everything is about ten times
slower than here.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "kernels"
PACKAGES = ("qemu-system-x86", "busybox-static", "xz-utils", "kmod")
_WANTED = ("virtio", "virtio_ring", "virtio_pci", "9pnet_virtio", "9p", "overlay")
_ARGUMENTS = (
    "-nodefaults -no-reboot -machine q35 -accel tcg,thread=multi,tb-size=512"
    " -cpu max,la57=off -smp 2 -m 3072 -display none"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """An unpacked kernel package."""

    release: str
    image: Path
    modules: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command in the guest ended; `status` is -1 if the guest never came to its end."""

    status: int
    output: str
    boot: str
    seconds: float

    @property
    def has_booted(self) -> bool:
        """Whether the command was begun; emulation on a busy machine can miss a kernel's clock."""
        return self.boot.startswith("booted")


def need_packages() -> None:
    """Install what the runner needs and set-up does not. Needs root."""
    programs = ("qemu-system-x86_64", "busybox", "xz", "depmod")
    if all(shutil.which(program) for program in programs):
        return
    _run("apt-get", "install", "-q", "-y", "--no-install-recommends", *PACKAGES)


def fetch(series: str) -> Kernel:
    """Unpack the newest Debian kernel of a series such as `6.1`."""
    package = _newest(series)
    release = package.removeprefix("linux-image-").removesuffix("-unsigned")
    root = CACHE / release
    if not (root / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        _run("apt-get", "download", package, cwd=root)
        [archive] = root.glob("*.deb")
        _run("dpkg", "-x", str(archive), str(root))
        archive.unlink()
        _run("depmod", "-b", str(root), release)
        (root / "complete").touch()
    return Kernel(
        release=release,
        image=root / "boot" / f"vmlinuz-{release}",
        modules=root / "lib" / "modules" / release,
    )


def _newest(series: str) -> str:
    """The newest ordinary kernel package of a series; the unsigned one holds everything."""
    found = newest_of(_output("apt-cache", "pkgnames", f"linux-image-{series}.").split())
    if found is None:
        raise SystemExit(f"no source has a kernel {series}: run `apt-get update`, or add backports")
    return found


def newest_of(names: Sequence[str]) -> str | None:
    """The ordinary kernel of the highest number: neither for clouds nor for real time."""
    special = ("-rt-", "-cloud-")
    ordinary = [n for n in names if n.endswith("-amd64-unsigned")]
    ordinary = [n for n in ordinary if not any(word in n for word in special)]
    return max(ordinary, key=lambda n: [int(p) for p in _numbers(n)], default=None)


def _numbers(name: str) -> list[str]:
    return "".join(c if c.isdigit() else " " for c in name).split()


def run(kernel: Kernel, command: str, directory: Path, timeout_s: float) -> Outcome:
    """Boot, run a shell command, power off. `directory` gets its files; make it fresh."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("output", "status", "boot"):
        (directory / name).unlink(missing_ok=True)
    (directory / "command").write_text(command)
    (directory / "modules").write_text(str(kernel.modules))
    shutil.copy(HERE / "guest", directory / "guest")
    initramfs = directory / "initramfs"
    _make_initramfs(kernel, initramfs)
    begin = time.monotonic()
    machine = subprocess.Popen(_qemu(kernel, initramfs, directory), stdin=subprocess.DEVNULL)
    try:
        machine.wait(timeout_s)
    except subprocess.TimeoutExpired:
        print(f"the guest did not end within {timeout_s:.0f} s", file=sys.stderr)
    finally:
        machine.kill()
        machine.wait()
    return Outcome(
        status=int(_text(directory / "status") or -1),
        output=_text(directory / "output"),
        boot=_text(directory / "boot") or _text(directory / "console"),
        seconds=time.monotonic() - begin,
    )


def _qemu(kernel: Kernel, initramfs: Path, directory: Path) -> list[str]:
    def share(tag: str, path: Path, more: str) -> list[str]:
        device = f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"
        return ["-fsdev", f"local,id={tag},path={path},{more}", "-device", device]

    return [
        "qemu-system-x86_64",
        *_ARGUMENTS.split(),
        *("-serial", f"file:{directory / 'console'}"),
        *share("root", Path("/"), "security_model=none,readonly=on,multidevs=remap"),
        *share("out", directory, "security_model=none"),
        *("-kernel", str(kernel.image), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 quiet panic=-1 mitigations=off"),
    ]


def _make_initramfs(kernel: Kernel, target: Path) -> None:
    """Our first program, busybox, and the modules without which the root cannot be mounted."""
    busybox = str(shutil.which("busybox"))
    tree = target.parent / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("bin", "proc", "sys", "dev", "modules"):
        (tree / name).mkdir(parents=True)
    shutil.copy(busybox, tree / "bin" / "busybox")
    shutil.copy(HERE / "init", tree / "init")
    (tree / "init").chmod(0o755)
    order = []
    for module in initramfs_modules(kernel):
        name = module.name.removesuffix(".xz")
        data = module.read_bytes()
        if module.suffix == ".xz":
            data = subprocess.run(["xz", "-dc"], input=data, capture_output=True, check=True).stdout
        (tree / "modules" / name).write_bytes(data)
        order.append(name)
    (tree / "modules" / "order").write_text("\n".join(order) + "\n")
    names = "\n".join(str(p.relative_to(tree)) for p in sorted(tree.rglob("*"))) + "\n"
    packed = subprocess.run(
        [busybox, "cpio", "-o", "-H", "newc"],
        cwd=tree,
        input=names.encode(),
        capture_output=True,
        check=True,
    ).stdout
    target.write_bytes(gzip.compress(packed, 1))
    shutil.rmtree(tree)


def initramfs_modules(kernel: Kernel) -> Iterator[Path]:
    """Files of the wanted modules and of what they need, in the order in which they load."""
    needs: dict[str, list[str]] = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {Path(file).name.partition(".")[0].replace("-", "_"): file for file in needs}
    seen: set[str] = set()
    for name in _WANTED:
        if name not in by_name:
            continue  # built in
        file = by_name[name]
        # modules.dep lists the nearest need first.
        for one in [*reversed(needs[file]), file]:
            if one not in seen:
                seen.add(one)
                yield kernel.modules / one


def _text(path: Path) -> str:
    return path.read_text(errors="replace").strip() if path.exists() else ""


def _run(*command: str, cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
