"""Servers of others as child processes, on loopback."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

START_S = 30.0


def free_port() -> int:
    """A port that was free a moment ago, for programs that cannot be given a socket.

    Below those that the kernel gives to connections: one of them might take it meanwhile, even
    the very one that looks whether somebody listens already (it would reach itself).
    """
    while True:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", 20_000 + secrets.randbelow(12_000)))
            return int(sock.getsockname()[1])


@contextlib.contextmanager
def listening(command: Sequence[str], port: int, log: Path) -> Iterator[None]:
    """Run a server until the block ends; it listens on `port` when this returns."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait(process, port, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if _is_listening(port):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    raise AssertionError(f"{process.args!r} did not start:\n{log.read_text()[-4000:]}")


def _is_listening(port: int) -> bool:
    """Read the kernel's table: a probe connection would be a client that says nothing."""
    wanted = f":{port:04X}"
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1].endswith(wanted) and row.split()[3] == "0A" for row in rows)


_NGINX = """\
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    {server}
  }}
}}
"""


@contextlib.contextmanager
def running_nginx(folder: Path, server: str) -> Iterator[int]:
    """Run nginx with what its server block holds besides `listen`; yields its port."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=port, server=server))
    command = ("nginx", "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log"))
    with listening(command, port, folder / "nginx.log"):
        yield port
