"""Connections that look redirected: a getsockopt program answers SO_ORIGINAL_DST for them."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from agent.capture import syscalls
from mesh.model.address import SocketAddress
from tests.lab.system import cgroup2_mount

_CGROUP_SOCKOPT, _GETSOCKOPT = 25, 21
_SO_ORIGINAL_DST = 80


def _answer(dst: SocketAddress) -> bytes:
    """`return 1`, and before it, for SO_ORIGINAL_DST, a `sockaddr_in` as the answer."""
    port = socket.htons(dst.port)
    address = struct.unpack("=I", dst.ip.packed)[0]

    def insn(code: int, registers: int, offset: int = 0, value: int = 0) -> bytes:
        return struct.pack("=BBhI", code, registers, offset, value & 0xFFFFFFFF)

    return b"".join(
        (
            insn(0xBF, 0x16),  # r6 = ctx
            insn(0xB7, 0x00, 0, 1),  # r0 = 1
            insn(0x61, 0x62, 28),  # r2 = ctx->optname
            insn(0x55, 0x02, 11, _SO_ORIGINAL_DST),  # if another option: exit
            insn(0x79, 0x63, 8),  # r3 = ctx->optval
            insn(0x79, 0x64, 16),  # r4 = ctx->optval_end
            insn(0xBF, 0x35),  # r5 = r3 + 16
            insn(0x07, 0x05, 0, 16),
            insn(0x2D, 0x45, 6),  # if r5 > r4: exit
            insn(0x62, 0x03, 0, socket.AF_INET | port << 16),
            insn(0x62, 0x03, 4, address),
            insn(0x7A, 0x03, 8, 0),
            insn(0xB7, 0x02, 0, 16),
            insn(0x63, 0x26, 32),  # ctx->optlen = 16
            insn(0x62, 0x06, 36, 0),  # ctx->retval = 0
            insn(0x95, 0x00),  # exit
        )
    )


@contextlib.contextmanager
def original_destination(dst: SocketAddress) -> Iterator[None]:
    """Every socket that this process asks was redirected from `dst`, during the block."""
    home = cgroup2_mount() / own_cgroup().lstrip("/")
    scratch = cgroup2_mount() / f"meshnode-test-redirected-{os.getpid()}"
    scratch.mkdir()
    with contextlib.ExitStack() as stack:
        stack.callback(scratch.rmdir)
        program = syscalls.Program(
            name="test_origdst",
            type=_CGROUP_SOCKOPT,
            attach=_GETSOCKOPT,
            code=_answer(dst),
            license="GPL",
        )
        prog_fd = syscalls.prog_load(program)
        stack.callback(os.close, prog_fd)
        cgroup_fd = os.open(scratch, os.O_RDONLY)
        stack.callback(os.close, cgroup_fd)
        stack.callback(os.close, syscalls.link_create(prog_fd, cgroup_fd, _GETSOCKOPT, "a test"))
        stack.callback(enter, home)
        enter(scratch)
        yield


def own_cgroup() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


def enter(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))
