"""Build the shared numbers: `python -m waypoint.shared.build` builds them in place.

setuptools uses `ffibuilder` (setup.py). Needs a C compiler and Python's headers. `--sanitize`
builds with sanitizers: a process that loads such a module needs LD_PRELOAD of their runtime.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path

from cffi import FFI

# setuptools runs this file with the repository as its working directory and wants relative names.
SOURCE = Path("waypoint/shared")
MODULE = "waypoint.shared._shared"
SANITIZE = {
    "address": ("-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g", "-O1"),
    "thread": ("-fsanitize=thread", "-g", "-O1"),
}


def declarations(header: str) -> str:
    """The part of shared.h that cffi can read."""
    match = re.search(r"/\* cffi: begin \*/(.*)/\* cffi: end \*/", header, re.DOTALL)
    if match is None:
        raise ValueError("shared.h has lost its cffi marks")
    return match.group(1)


def make_builder(*, sanitize: str | None = None) -> FFI:
    builder = FFI()
    flags = SANITIZE[sanitize] if sanitize else ("-O2",)
    builder.cdef(declarations((SOURCE / "shared.h").read_text()))
    builder.set_source(
        MODULE,
        '#include "shared.h"',
        sources=[str(SOURCE / "shared.c")],
        include_dirs=[str(SOURCE)],
        extra_compile_args=["-Wall", "-Wextra", "-fstack-protector-strong", *flags],
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
