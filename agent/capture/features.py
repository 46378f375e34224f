"""Tiny programs that find out what this kernel can do, by loading them."""

from __future__ import annotations

import ctypes
import os
import struct

from agent.capture import syscalls
from bpf.layout import AttachType, ProgType
from mesh.errors import KernelError

_LDX_W, _LDX_DW = 0x61, 0x79
_LD_IMM64, _CALL, _EXIT, _MOV = 0x18, 0x85, 0x95, 0xB7
_PSEUDO_MAP_FD = 1


def _insn(code: int, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return struct.pack("=BBhi", code, src << 4 | dst, offset, imm)


def _ending(code: bytes) -> bytes:
    return code + _insn(_MOV, 0, imm=1) + _insn(_EXIT)


def calls_helper(helper: int, argument: int | None = None) -> bytes:
    """`return 1` after calling a helper with the context, or with a number."""
    first = b"" if argument is None else _insn(_MOV, 1, imm=argument)
    return _ending(first + _insn(_CALL, imm=helper))


def reads_context(offset: int) -> bytes:
    """`return 1` after reading 32 bits of the context."""
    return _ending(_insn(_LDX_W, 2, 1, offset))


def reads_storage(map_fd: int, sk_offset: int) -> bytes:
    """`return 1` after asking for the storage of the context's socket (never null at connect)."""
    code = _insn(_LDX_DW, 2, 1, sk_offset)
    code += _insn(_LD_IMM64, 1, _PSEUDO_MAP_FD, imm=map_fd) + _insn(0)
    code += _insn(_MOV, 3) + _insn(_MOV, 4) + _insn(_CALL, imm=107)
    return _ending(code)


def loads(prog_type: ProgType, attach: AttachType, code: bytes) -> None:
    """Load and forget a program; raise `KernelError` if the kernel refuses."""
    program = syscalls.Program(
        name="mn_probe", type=prog_type, attach=attach, code=code, license="Dual BSD/GPL"
    )
    os.close(syscalls.prog_load(program))


def is_loadable(prog_type: ProgType, attach: AttachType, code: bytes) -> bool:
    """Whether the kernel takes a program."""
    try:
        loads(prog_type, attach, code)
    except KernelError:
        return False
    return True


def asks_mptcp() -> bytes:
    """`return 1` after asking for the MPTCP socket of the context's socket (offset 64)."""
    return _ending(_insn(_LDX_DW, 1, 1, 64) + _insn(_CALL, imm=196))


SET_RETVAL = calls_helper(187, -111)
LOOKUP_IFINDEX = reads_context(64)
"""Offset of `ingress_ifindex` in `struct bpf_sk_lookup`."""


def compile_features() -> dict[str, int]:
    """The switches that the C sources know, for the running kernel."""
    return {
        "MN_HAVE_SET_RETVAL": int(
            is_loadable(ProgType.SOCK_ADDR, AttachType.INET4_CONNECT, SET_RETVAL)
        ),
        "MN_HAVE_MPTCP": int(
            is_loadable(ProgType.SOCK_ADDR, AttachType.INET4_CONNECT, asks_mptcp())
        ),
        "MN_HAVE_LOOKUP_IFINDEX": int(
            is_loadable(ProgType.SK_LOOKUP, AttachType.SK_LOOKUP, LOOKUP_IFINDEX)
        ),
    }


BPFFS = "/sys/fs/bpf"
_BPF_FS_MAGIC = 0xCAFE4A11

_libc = ctypes.CDLL(None, use_errno=True)


def is_bpffs(path: str = BPFFS) -> bool:
    """Whether a BPF file system is mounted there."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(path.encode(), buffer) != 0:
        return False
    return int(struct.unpack_from("=q", buffer.raw)[0]) == _BPF_FS_MAGIC


def ensure_bpffs() -> None:
    """Mount the BPF file system where every distribution has it, unless it is there."""
    if is_bpffs():
        return
    if _libc.mount(b"bpf", BPFFS.encode(), b"bpf", 0, b"mode=0700") != 0:
        number = ctypes.get_errno()
        raise KernelError(f"mount bpf on {BPFFS}", number, "Mount it: mount -t bpf bpf " + BPFFS)
