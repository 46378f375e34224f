"""Builds the plugin: `python -m agent.cni.build TARGET`. Static, so that it runs on any node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mesh.errors import ConfigError

SOURCE = Path(__file__).parent / "plugin" / "meshnode-cni.c"
NAME = "meshnode-cni"
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s")


def build(target: Path) -> None:
    """Compile to `target`. Raises `ConfigError` with the compiler's words."""
    compiler = os.environ.get("CC", "cc")
    command = [compiler, *_FLAGS, "-o", str(target), str(SOURCE)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(f"the CNI plugin needs a C compiler: {error}") from error
    if done.returncode != 0:
        raise ConfigError(f"the CNI plugin does not compile:\n{done.stderr}")


def built_plugin() -> Path | None:
    """The plugin where set-up or the image put it: beside this Python."""
    found = Path(sys.prefix) / "bin" / NAME
    return found if found.is_file() else None


if __name__ == "__main__":
    build(Path(sys.argv[1]))
