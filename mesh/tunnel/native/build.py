"""Build the native tunnel engine: `python -m mesh.tunnel.native.build` builds it in place.

setuptools uses `ffibuilder` (setup.py). Needs a C compiler, Python's headers, OpenSSL 3 and
libnghttp2 1.43 or later (Debian: build-essential, python3-dev, libssl-dev, libnghttp2-dev).
`--sanitize` builds with sanitizers: a process that loads such a module needs LD_PRELOAD of their
runtime (`scripts/sanitize`).
"""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path

from cffi import FFI

# setuptools runs this file with the repository as its working directory and wants relative names.
SOURCE = Path("mesh/tunnel/native")
MODULE = "mesh.tunnel.native._native"
SOURCES = (
    "bytes.c",
    "commands.c",
    "context.c",
    "engine.c",
    "far.c",
    "guards.c",
    "headers.c",
    "http2.c",
    "http2_received.c",
    "http2_sent.c",
    "lane_calls.c",
    "lanes.c",
    "near.c",
    "port.c",
    "relay.c",
    "stream.c",
    "stream_calls.c",
    "tls.c",
    "tunnel.c",
    "tunnel_time.c",
)
SANITIZE = {
    "address": ("-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g", "-O1"),
    "thread": ("-fsanitize=thread", "-g", "-O1"),
}


def declarations(header: str) -> str:
    """The part of native.h that cffi can read."""
    match = re.search(r"/\* cffi: begin \*/(.*)/\* cffi: end \*/", header, re.DOTALL)
    if match is None:
        raise ValueError("native.h has lost its cffi marks")
    return match.group(1)


def make_builder(*, sanitize: str | None = None) -> FFI:
    builder = FFI()
    builder.cdef(declarations((SOURCE / "native.h").read_text()))
    flags = SANITIZE[sanitize] if sanitize else ("-O2",)
    builder.set_source(
        MODULE,
        '#include "native.h"',
        sources=[str(SOURCE / name) for name in SOURCES],
        include_dirs=[str(SOURCE)],
        libraries=["nghttp2", "ssl", "crypto"],
        extra_compile_args=["-Wall", "-Wextra", "-fstack-protector-strong", "-pthread", *flags],
        extra_link_args=["-pthread", *flags[:1]],
    )
    return builder


def build_in_place(*, sanitize: str | None = None) -> str:
    """Compile next to the sources. Returns the path of the module."""
    with contextlib.chdir(Path(__file__).parents[3]):
        return str(make_builder(sanitize=sanitize).compile(tmpdir=".", verbose=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sanitize", choices=SANITIZE)
    print(build_in_place(sanitize=parser.parse_args().sanitize))


if __name__ == "__main__":
    main()
elif __name__ == "__cffi__":
    ffibuilder = make_builder()
