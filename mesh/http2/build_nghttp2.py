"""Build the compiled HTTP/2 engine: `python -m mesh.http2.build_nghttp2` builds it in place.

setuptools uses `ffibuilder` (setup.py). Needs a C compiler, Python's headers and libnghttp2's
(Debian: build-essential, python3-dev, libnghttp2-dev; 1.43 or later).
"""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path

from cffi import FFI

# setuptools runs this file with the repository as its working directory and wants relative names.
SOURCE = Path("mesh/http2")
MODULE = "mesh.http2._nghttp2"
SOURCES = (
    *("answers.c", "credit.c", "framing.c", "heads.c", "known.c", "lane.c", "lane_sessions.c"),
    *("payload.c", "received.c", "rendered.c", "sending.c", "session.c", "streams.c", "tally.c"),
)
SANITIZE = {
    "address": ("-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g", "-O1"),
    "thread": ("-fsanitize=thread", "-g", "-O1"),
}


def declarations(header: str) -> str:
    """The part of shim.h that cffi can read."""
    match = re.search(r"/\* cffi: begin \*/(.*)/\* cffi: end \*/", header, re.DOTALL)
    if match is None:
        raise ValueError("shim.h has lost its cffi marks")
    return match.group(1)


def make_builder(*, sanitize: str | None = None) -> FFI:
    builder = FFI()
    flags = SANITIZE[sanitize] if sanitize else ("-O2",)
    builder.cdef(declarations((SOURCE / "shim.h").read_text()))
    builder.set_source(
        MODULE,
        '#include "shim.h"',
        sources=[str(SOURCE / name) for name in SOURCES],
        include_dirs=[str(SOURCE)],
        libraries=["nghttp2"],
        extra_compile_args=[
            "-Wall",
            "-Wextra",
            "-D_GNU_SOURCE",
            "-fvisibility=hidden",
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
