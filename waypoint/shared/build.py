"""Build the shared numbers: `python -m waypoint.shared.build` builds them in place.

setuptools uses `ffibuilder` (setup.py). Needs a C compiler and Python's headers.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from cffi import FFI

# setuptools runs this file with the repository as its working directory and wants relative names.
SOURCE = Path("waypoint/shared")
MODULE = "waypoint.shared._shared"


def declarations(header: str) -> str:
    """The part of shared.h that cffi can read."""
    match = re.search(r"/\* cffi: begin \*/(.*)/\* cffi: end \*/", header, re.DOTALL)
    if match is None:
        raise ValueError("shared.h has lost its cffi marks")
    return match.group(1)


def make_builder() -> FFI:
    builder = FFI()
    builder.cdef(declarations((SOURCE / "shared.h").read_text()))
    builder.set_source(
        MODULE,
        '#include "shared.h"',
        sources=[str(SOURCE / "shared.c")],
        include_dirs=[str(SOURCE)],
        extra_compile_args=["-O2", "-Wall", "-Wextra", "-fstack-protector-strong"],
    )
    return builder


def build_in_place() -> str:
    """Compile next to the sources. Returns the path of the module."""
    with contextlib.chdir(Path(__file__).parents[2]):
        return str(make_builder().compile(tmpdir=".", verbose=False))


if __name__ == "__main__":
    print(build_in_place())
elif __name__ == "__cffi__":
    ffibuilder = make_builder()
