"""Run a program on a kernel without one of bpf(2)'s commands: `without_call.py COMMAND PROGRAM…`.

A seccomp filter answers that command with EINVAL, as a kernel does that does not know it.
"""

import ctypes
import os
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO_EINVAL = 0x7FFF0000, 0x00050000 | 22
NR_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]


def instruction(code: int, true: int, false: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, true, false, value)


number, *argv = sys.argv[1:]
code = b"".join(
    (
        instruction(LOAD_WORD, 0, 0, 0),  # seccomp_data.nr
        instruction(JUMP_EQUAL, 0, 3, NR_BPF),
        instruction(LOAD_WORD, 0, 0, 16),  # seccomp_data.args[0]
        instruction(JUMP_EQUAL, 0, 1, int(number)),
        instruction(RETURN, 0, 0, ERRNO_EINVAL),
        instruction(RETURN, 0, 0, ALLOW),
    )
)
buffer = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", 6, ctypes.addressof(buffer)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) != 0:
    sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")
os.execvp(argv[0], argv)
