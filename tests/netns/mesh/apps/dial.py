"""Clients of every kind. Prints one JSON object; a failed call is `{"error": "ECONNREFUSED"}`.

    dial.py KIND ADDRESS PORT [KEY=VALUE...]

KIND is the way to connect (see KINDS). Options: `do` (what to do then, see ACTIONS), `source`
(address to bind), `source_port`, `device`, `count` (bytes), `timeout` (seconds).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import selectors
import socket
import struct
import sys
import time

SO_BINDTODEVICE = 25
TCP_FASTOPEN_CONNECT = 30
IPPROTO_MPTCP = 262
Answer = dict[str, object]

CHUNK = bytes(range(256)) * 1024


def plain(address: str) -> str:
    return address.removeprefix("::ffff:")


class Client:
    def __init__(self, kind: str, address: str, port: str, options: dict[str, str]) -> None:
        self.kind, self.address, self.port = kind, address, int(port)
        self.options = options
        self.early = b""
        self.timeout = float(options.get("timeout", 25))
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET

    @property
    def target(self) -> tuple[str, int]:
        return (self.address, self.port)

    def socket(self, protocol: int = 0) -> socket.socket:
        sock = socket.socket(self.family, socket.SOCK_STREAM, protocol)
        sock.settimeout(self.timeout)
        return sock


def blocking(client: Client) -> socket.socket:
    sock = client.socket()
    sock.connect(client.target)
    return sock


def mptcp(client: Client) -> socket.socket:
    sock = client.socket(IPPROTO_MPTCP)
    sock.connect(client.target)
    return sock


def nonblocking(client: Client) -> socket.socket:
    sock = client.socket()
    sock.setblocking(False)
    code = sock.connect_ex(client.target)
    if code not in (0, errno.EINPROGRESS):
        raise OSError(code, "connect")
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        if not selector.select(client.timeout):
            raise TimeoutError
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, "SO_ERROR")
    sock.settimeout(client.timeout)
    return sock


def with_asyncio(client: Client) -> socket.socket:
    async def connect() -> socket.socket:
        loop = asyncio.get_running_loop()
        sock = client.socket()
        sock.setblocking(False)
        async with asyncio.timeout(client.timeout):
            await loop.sock_connect(sock, client.target)
        return sock

    sock = asyncio.run(connect())
    sock.settimeout(client.timeout)
    return sock


def mapped(client: Client) -> socket.socket:
    """As Go does it: an IPv6 socket for IPv4 addresses too."""
    client.family, client.address = socket.AF_INET6, f"::ffff:{client.address}"
    sock = client.socket()
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.connect(client.target)
    return sock


def bound(client: Client) -> socket.socket:
    sock = client.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((client.options["source"], int(client.options.get("source_port", 0))))
    sock.connect(client.target)
    return sock


def device(client: Client) -> socket.socket:
    sock = client.socket()
    sock.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, client.options["device"].encode())
    sock.connect(client.target)
    return sock


def fastopen_send(client: Client) -> socket.socket:
    """MSG_FASTOPEN: connect and first bytes in one call; they are asked back from the echo."""
    sock = client.socket()
    sock.settimeout(None)  # with a timeout the socket is non-blocking: EINPROGRESS
    sock.sendto(b"early", socket.MSG_FASTOPEN, client.target)
    client.early = b"early"
    return sock


def fastopen_connect(client: Client) -> socket.socket:
    """The kernel connects when the first bytes are sent."""
    sock = client.socket()
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    sock.connect(client.target)
    sock.sendall(b"early")
    client.early = b"early"
    return sock


KINDS = {
    "blocking": blocking,
    "nonblocking": nonblocking,
    "asyncio": with_asyncio,
    "mapped": mapped,
    "bound": bound,
    "device": device,
    "fastopen_send": fastopen_send,
    "fastopen_connect": fastopen_connect,
    "mptcp": mptcp,
}


def read_line(sock: socket.socket) -> str:
    line = b""
    while not line.endswith(b"\n"):
        data = sock.recv(1)
        if not data:
            break
        line += data
    return line.decode().strip()


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while data := sock.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


def greet(client: Client, sock: socket.socket) -> Answer:
    """The server speaks first; then an echo; then a half-close, and the server's last word."""
    name, _, peer = read_line(sock).partition(" ")
    sock.sendall(b"x" * 1000)
    sock.shutdown(socket.SHUT_WR)
    rest = read_all(sock)
    wanted = client.early + b"x" * 1000 + f"bye {1000 + len(client.early)}\n".encode()
    return {"server": name, "seen_as": peer, "echoed": rest == wanted}


def upload(client: Client, sock: socket.socket) -> Answer:
    left, total = int(client.options["count"]), hashlib.sha256()
    while left:
        sent = sock.send(CHUNK[: min(left, len(CHUNK))])
        total.update(CHUNK[:sent])
        left -= sent
    sock.shutdown(socket.SHUT_WR)
    return {"answer": read_line(sock), "wanted": f"{client.options['count']} {total.hexdigest()}"}


def download(client: Client, sock: socket.socket) -> Answer:
    """Read to the server's FIN, then write still: the other half is open."""
    count = int(client.options["count"])
    sock.sendall(f"{count}\n".encode())
    total, received = hashlib.sha256(), 0
    while data := sock.recv(1 << 20):
        total.update(data)
        received += len(data)
    sock.sendall(b"still here")
    return {"received": received, "intact": digest_of(count) == total.hexdigest()}


def digest_of(count: int) -> str:
    total = hashlib.sha256()
    for start in range(0, count, len(CHUNK)):
        total.update(CHUNK[: min(len(CHUNK), count - start)])
    return total.hexdigest()


def expect_reset(client: Client, sock: socket.socket) -> Answer:
    sock.sendall(b"reset me\n")
    try:
        data = sock.recv(1)
    except ConnectionResetError:
        return {"ended": "reset"}
    return {"ended": "data" if data else "eof"}


def send_reset(client: Client, sock: socket.socket) -> Answer:
    read_line(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return {"ended": "reset it"}


def wait_end(client: Client, sock: socket.socket) -> Answer:
    """Say that the connection is up, then wait until it ends."""
    print(json.dumps({"up": read_line(sock)}), flush=True)
    sock.settimeout(None)
    try:
        data = sock.recv(1)
    except OSError as error:
        return {"ended": errno.errorcode[error.errno or 0]}
    return {"ended": "data" if data else "eof"}


def one_byte(client: Client, sock: socket.socket) -> Answer:
    """Wait for the first byte or the failure of a connection that nobody may accept."""
    return {"answered": bool(sock.recv(1))}


def fill(client: Client, sock: socket.socket) -> Answer:
    """Write until nothing was taken for two seconds; then wait to be read, and compare."""
    sock.settimeout(2)
    total, sent = hashlib.sha256(), 0
    try:
        while True:
            piece = CHUNK[sent % len(CHUNK) :]
            taken = sock.send(piece)
            total.update(piece[:taken])
            sent += taken
    except TimeoutError:
        print(json.dumps({"blocked_after": sent}), flush=True)
    sock.settimeout(60)
    sock.shutdown(socket.SHUT_WR)
    return {"answer": read_line(sock), "wanted": f"{sent} {total.hexdigest()}"}


ACTIONS = {
    "greet": greet,
    "upload": upload,
    "download": download,
    "expect_reset": expect_reset,
    "send_reset": send_reset,
    "wait_end": wait_end,
    "one_byte": one_byte,
    "fill": fill,
}


def run(client: Client) -> Answer:
    action = ACTIONS[client.options.get("do", "greet")]
    with KINDS[client.kind](client) as sock:
        peer, own = sock.getpeername(), sock.getsockname()
        done = action(client, sock)
        return {"peer": [plain(peer[0]), peer[1]], "own": [plain(own[0]), own[1]], **done}


def main() -> None:
    kind, address, port, *rest = sys.argv[1:]
    client = Client(kind, address, port, dict(item.split("=", 1) for item in rest))
    started = time.monotonic()
    try:
        result = run(client)
    except TimeoutError:
        result = {"error": "timeout"}
    except OSError as error:
        result = {"error": errno.errorcode.get(error.errno or 0, str(error))}
    print(json.dumps({**result, "seconds": round(time.monotonic() - started, 3)}), flush=True)


if __name__ == "__main__":
    main()
