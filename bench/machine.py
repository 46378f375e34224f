"""What a run was made on, and with which versions."""

from __future__ import annotations

import os
import platform
import re
import shutil
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from tests.interop.envoy import find_envoy

ROOT = Path(__file__).resolve().parent.parent


def describe_machine() -> Mapping[str, str]:
    """Processor, cores, memory, kernel."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_model(Path("/proc/cpuinfo").read_text()),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{pages / (1 << 30):.0f} GiB",
        "kernel": platform.release(),
        "virtual": "yes" if "hypervisor" in Path("/proc/cpuinfo").read_text() else "no",
        "load before": f"{load_average():.2f}",
    }


def describe_versions() -> Mapping[str, str]:
    """Of everything whose speed is compared."""
    envoy = find_envoy()
    found = {
        "meshnode": _said(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "envoy": parse_envoy_version(_said([envoy, "--version"])) if envoy else "none",
    }
    for proxy in ("nginx", "haproxy"):
        found[proxy] = parse_release(_said_at_all([proxy, "-v"])) if shutil.which(proxy) else "none"
    for package in ("uvloop", "h2", "cryptography"):
        found[package] = metadata.version(package)
    return found


def load_average() -> float:
    """Processes that wanted a core in the last minute; above 0.5 the figures are not quiet ones."""
    return os.getloadavg()[0]


def _cpu_model(text: str) -> str:
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def parse_envoy_version(text: str) -> str:
    """The release in `PATH  version: COMMIT/RELEASE/...`."""
    _, found, rest = text.partition("version: ")
    parts = rest.split("/")
    return parts[1] if found and len(parts) > 1 else "unknown"


def parse_release(text: str) -> str:
    """The first number with dots."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return found[0] if found else "unknown"


def _said_at_all(argv: Sequence[str]) -> str:
    """Also what was said on the error channel, as nginx does."""
    try:
        done = subprocess.run(
            list(argv),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=20,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip()


def _said(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(list(argv), capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
