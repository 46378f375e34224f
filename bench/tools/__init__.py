"""Small C programs that make and take load; compiled when they are first needed."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror")


def compile_tool(name: str, folder: Path, libraries: Sequence[str] = ()) -> Path:
    """Compile `NAME.c` into `folder`, unless a build of the same text is there; its path."""
    source, built = SOURCES / f"{name}.c", folder / name
    if built.exists() and built.stat().st_mtime_ns > source.stat().st_mtime_ns:
        return built
    folder.mkdir(parents=True, exist_ok=True)
    command = ["cc", *FLAGS, "-o", str(built), str(source)]
    command += [f"-l{library}" for library in libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr}")
    return built
