"""A child that gives up privilege: what is gone, what is refused, and what still works."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.privilege import worker_ids

pytestmark = pytest.mark.root

DROP = "from mesh.privilege import *\ndrop_privileges(65534, 65534)\n"
PROBE = """
import ctypes, errno, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
library = ctypes.CDLL('libseccomp.so.2')
def call(name, *arguments):
    number = library.seccomp_syscall_resolve_name(name.encode())
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_ulong(a) for a in arguments])
    return errno.errorcode.get(ctypes.get_errno(), '') if result == -1 else 'ok'
"""


def child(code: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert not check or result.returncode == 0, result.stderr
    return result


def test_nothing_is_left() -> None:
    code = DROP + (
        "import os, resource\n"
        "print(open('/proc/self/status').read())\n"
        "print('core', resource.getrlimit(resource.RLIMIT_CORE))\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "print('files', soft == hard)\n"
        "import ctypes\n"
        "print('dumpable', ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"
    )
    said = child(code).stdout
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"{name}:\t0000000000000000\n" in said
    assert "Uid:\t65534\t65534\t65534\t65534\n" in said
    assert "Gid:\t65534\t65534\t65534\t65534\n" in said
    assert "NoNewPrivs:\t1\n" in said
    assert "core (0, 0)" in said
    assert "files True" in said
    assert "dumpable 0" in said


@pytest.mark.parametrize(
    "attempt",
    [
        "os.setuid(0)",
        "os.setgroups([0])",
        "open('/etc/shadow')",
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 6)",
        "socket.socket().setsockopt(socket.SOL_SOCKET, 36, 1)",
        "socket.socket().setsockopt(socket.SOL_IP, 19, 1)",
        "socket.socket().bind(('127.0.0.1', 1))",
        "os.kill(1, 0)",
    ],
)
def test_nothing_comes_back(attempt: str) -> None:
    code = (
        "import os, socket\n" + DROP + f"try:\n    {attempt}\nexcept PermissionError:\n"
        "    print('refused')\n"
    )
    # A bind to a low port is allowed wherever the system says so.
    said = child(code).stdout
    if "bind" in attempt:
        start = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
        assert said == ("refused\n" if start > 1 else "")
    else:
        assert said == "refused\n"


def test_root_is_no_worker() -> None:
    result = child("from mesh.privilege import *\ndrop_privileges(0, 65534)", check=False)
    assert "must not run as user or group 0" in result.stderr


def test_threads_are_an_error() -> None:
    code = (
        "import threading\nevent = threading.Event()\n"
        "thread = threading.Thread(target=event.wait)\nthread.start()\n"
        "from mesh.privilege import *\n"
        "try:\n    drop_privileges(65534, 65534)\nexcept Exception as error:\n    print(error)\n"
        "event.set()\n"
    )
    assert "before the process starts a thread" in child(code).stdout


def test_without_root_it_fails_instead_of_pretending() -> None:
    code = (
        "import os\nfrom mesh.privilege import *\nos.setresuid(1000, 1000, 1000)\n"
        "drop_privileges(65534, 65534)"
    )
    result = child(code, check=False)
    assert result.returncode == 1
    assert "KernelError" in result.stderr


def test_verification_names_what_is_left() -> None:
    result = child("from mesh.privilege import *\nverify_unprivileged(65534, 65534)", check=False)
    assert "Still privileged: CapPrm, CapEff, CapBnd, Uid, Gid" in result.stderr


def test_worker_ids_are_never_root() -> None:
    assert 0 not in worker_ids()


def test_refused_calls() -> None:
    names = [
        *("execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "bpf", "mount"),
        *("umount2", "setns", "unshare", "init_module", "kexec_load", "keyctl", "perf_event_open"),
        *("userfaultfd", "io_uring_setup", "open_by_handle_at", "name_to_handle_at", "personality"),
        *("reboot", "swapon", "acct", "pidfd_getfd", "kcmp", "kill", "socket"),
    ]
    # As root: EPERM can only be the filter's.
    code = PROBE + (
        "from mesh.privilege import *\ninstall_seccomp()\n"
        "for name in sys.argv[1:]:\n    print(name, call(name, 0, 0, 0, 0, 0))\n"
        "print('clone', call('clone', 17, 0, 0, 0, 0))\n"
        "print('clone3', call('clone3', 0, 0))\n"
        "print('tgkill', call('tgkill', 1, 1, 0))\n"
    )
    said = dict(line.split() for line in child(code, *names).stdout.splitlines())
    assert said.pop("clone3") == "ENOSYS"
    assert said == dict.fromkeys((*names, "clone", "tgkill"), "EPERM")


def test_the_same_calls_are_not_refused_without_the_filter() -> None:
    code = PROBE + "print(call('userfaultfd', 1 << 30), call('kcmp', 0, 0, 99, 0, 0))"
    assert "EPERM" not in child(code).stdout


def test_sockets_by_choice_and_threads_always() -> None:
    code = (
        "import os, socket, subprocess, sys, threading\n"
        + DROP
        + "install_seccomp(allow_sockets=True)\n"
        "socket.socket().close()\n"
        "thread = threading.Thread(target=print, args=('thread',))\n"
        "thread.start()\nthread.join()\n"
        "install_seccomp()\n"
        "for attempt in (socket.socket, os.fork, lambda: subprocess.run(['true'])):\n"
        "    try:\n        attempt()\n    except PermissionError:\n        print('refused')\n"
        "[end.close() for end in socket.socketpair()]\n"
        "threading.Thread(target=print, args=('thread',)).start()\n"
    )
    assert child(code).stdout.split() == ["thread", "refused", "refused", "refused", "thread"]


TLS = (
    """
import asyncio, ssl, sys, socket, uvloop
cert, key = sys.argv[1:]
server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server_side.load_cert_chain(cert, key)
client_side = ssl.create_default_context(cafile=cert)
inside = socket.socketpair()
listener = socket.create_server(('127.0.0.1', 0))
dialler = socket.socket()
dialler.setblocking(False)
"""
    + DROP
    + """install_seccomp()
async def echo(reader, writer):
    writer.write(await reader.readexactly(4)); await writer.drain(); writer.close()
async def main():
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(echo, sock=listener, ssl=server_side)
    await loop.sock_connect(dialler, listener.getsockname())
    reader, writer = await asyncio.open_connection(
        sock=dialler, ssl=client_side, server_hostname='localhost')
    writer.write(b'ping')
    print((await reader.readexactly(4)).decode(), type(loop).__module__)
    writer.close()
    await loop.run_in_executor(None, print, 'executor')
    server.close()
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""
)


def test_uvloop_tls_and_threads_work_behind_the_filter(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    said = child(TLS, str(cert_file), str(key_file)).stdout.split()
    assert said == ["ping", "uvloop", "executor"]


def test_missing_library_names_the_package() -> None:
    code = (
        "import mesh.privilege.seccomp as s\ns.LIBRARY = 'libseccomp-none.so.0'\n"
        "try:\n    s.install_seccomp()\nexcept s.KernelError as error:\n    print(error)\n"
    )
    assert "Install the package libseccomp2" in child(code).stdout
