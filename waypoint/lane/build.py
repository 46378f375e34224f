"""Build the lane: `python -m waypoint.lane.build` builds it in place.

setuptools uses `ffibuilder` (setup.py). Needs a C compiler and Python's headers. `--sanitize`
builds with sanitizers: a process that loads such a module needs LD_PRELOAD of their runtime
(`scripts/sanitize`).
"""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path

from cffi import FFI

# setuptools runs this file with the repository as its working directory and wants relative names.
SOURCE = Path("waypoint/lane")
MODULE = "waypoint.lane._lane"
SOURCES = (
    "client.c",
    "count.c",
    "line.c",
    "loop.c",
    "recall.c",
    "record.c",
    "render.c",
    "scan.c",
    "server.c",
    "table.c",
)
SANITIZE = {
    "address": ("-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g", "-O1"),
    "thread": ("-fsanitize=thread", "-g", "-O1"),
}
CALLBACKS = """
extern "Python" struct lane_caller *py_caller(void *, uint64_t);
extern "Python" struct lane_entry *py_decide(
    void *, uint64_t, struct lane_caller *, const char *, size_t, const char *, size_t,
    const char *, size_t);
extern "Python" void py_dial(void *, uint64_t, struct lane_target *);
extern "Python" void py_hand_over(void *, uint64_t, int, const char *, size_t);
extern "Python" void py_adopt(
    void *, uint64_t, int, const char *, size_t, int, const char *, size_t, uint64_t, uint64_t,
    uint32_t, uint32_t, const char *, size_t);
extern "Python" void py_closed(void *, uint64_t);
extern "Python" void py_gone(void *, uint64_t);
extern "Python" void py_recorded(void *);
"""


def declarations(header: str) -> str:
    """The part of lane.h that cffi can read."""
    match = re.search(r"/\* cffi: begin \*/(.*)/\* cffi: end \*/", header, re.DOTALL)
    if match is None:
        raise ValueError("lane.h has lost its cffi marks")
    return match.group(1)


def make_builder(*, sanitize: str | None = None) -> FFI:
    builder = FFI()
    builder.cdef(declarations((SOURCE / "lane.h").read_text()) + CALLBACKS)
    flags = SANITIZE[sanitize] if sanitize else ("-O2",)
    builder.set_source(
        MODULE,
        '#include "lane.h"',
        sources=[str(SOURCE / name) for name in SOURCES],
        include_dirs=[str(SOURCE)],
        extra_compile_args=[
            "-Wall",
            "-Wextra",
            "-D_GNU_SOURCE",
            "-fstack-protector-strong",
            *flags,
        ],
        extra_link_args=list(flags[:1]),
    )
    return builder


def build_in_place(*, sanitize: str | None = None) -> str:
    """Compile next to the sources. Returns the path of the module."""
    with contextlib.chdir(Path(__file__).parents[2]):
        return str(make_builder(sanitize=sanitize).compile(tmpdir=".", verbose=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sanitize", choices=SANITIZE)
    print(build_in_place(sanitize=parser.parse_args().sanitize))


if __name__ == "__main__":
    main()
elif __name__ == "__cffi__":
    ffibuilder = make_builder()
