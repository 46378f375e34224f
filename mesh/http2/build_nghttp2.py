"""Build the compiled HTTP/2 engine: `python -m mesh.http2.build_nghttp2` builds it in place.

setuptools uses `ffibuilder` (setup.py). Needs a C compiler, Python's headers and libnghttp2's
(Debian: build-essential, python3-dev, libnghttp2-dev; 1.43 or later).
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from cffi import FFI

# setuptools runs this file with the repository as its working directory and wants relative names.
SOURCE = Path("mesh/http2")


def declarations(header: str) -> str:
    """The part of shim.h that cffi can read."""
    match = re.search(r"/\* cffi: begin \*/(.*)/\* cffi: end \*/", header, re.DOTALL)
    if match is None:
        raise ValueError("shim.h has lost its cffi marks")
    return match.group(1)


def make_builder() -> FFI:
    builder = FFI()
    builder.cdef(declarations((SOURCE / "shim.h").read_text()))
    builder.set_source(
        "mesh.http2._nghttp2",
        '#include "shim.h"',
        sources=[str(SOURCE / "shim.c")],
        include_dirs=[str(SOURCE)],
        libraries=["nghttp2"],
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
