"""The application of every pod: one TCP behaviour per port, on all addresses of both families.

    serve.py NAME

What it saw is said on standard output, one line per finished connection: `PORT PEER OUTCOME`.
"""

from __future__ import annotations

import hashlib
import socket
import socketserver
import struct
import sys
import threading

SPEAK_FIRST = 7000
"""Says `NAME PEER_ADDRESS` at once, then echoes; after the client's FIN it says `bye COUNT`."""
DIGEST = 7001
"""Reads to the end, then answers `COUNT SHA256`."""
PRODUCE = 7002
"""Reads a number, sends so many bytes, shuts down writing; then still reads to the end."""
RESET = 7003
"""Reads one line, then resets."""
STALL = 7004
"""Reads nothing until a datagram comes to the same port; then behaves as DIGEST."""
EXTRA = 7005
"""As SPEAK_FIRST: a second port for policies to tell apart."""

CHUNK = bytes(range(256)) * 1024
RELEASED = threading.Event()


def plain(address: str) -> str:
    return address.removeprefix("::ffff:")


def speak_first(sock: socket.socket, peer: str) -> str:
    sock.sendall(f"{sys.argv[1]} {peer}\n".encode())
    count = 0
    while data := sock.recv(1 << 16):
        sock.sendall(data)
        count += len(data)
    sock.sendall(f"bye {count}\n".encode())
    return f"eof after {count}"


def digest(sock: socket.socket, peer: str) -> str:
    total, count = hashlib.sha256(), 0
    while data := sock.recv(1 << 20):
        total.update(data)
        count += len(data)
    sock.sendall(f"{count} {total.hexdigest()}\n".encode())
    return f"eof after {count}"


def produce(sock: socket.socket, peer: str) -> str:
    left = int(read_line(sock))
    while left:
        sent = sock.send(CHUNK[: min(left, len(CHUNK))])
        left -= sent
    sock.shutdown(socket.SHUT_WR)
    count = 0
    while data := sock.recv(1 << 16):
        count += len(data)
    return f"eof after {count}"


def reset(sock: socket.socket, peer: str) -> str:
    read_line(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return "reset it"


def stall(sock: socket.socket, peer: str) -> str:
    RELEASED.wait()
    return digest(sock, peer)


def read_line(sock: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            break
        line += byte
    return line


BEHAVIOURS = {
    SPEAK_FIRST: speak_first,
    DIGEST: digest,
    PRODUCE: produce,
    RESET: reset,
    STALL: stall,
    EXTRA: speak_first,
}


class Connection(socketserver.BaseRequestHandler):
    request: socket.socket

    def handle(self) -> None:
        port = self.request.getsockname()[1]
        peer = plain(self.client_address[0])
        try:
            outcome = BEHAVIOURS[port](self.request, peer)
        except OSError as error:
            outcome = type(error).__name__
        print(port, peer, outcome, flush=True)
        self.request.close()


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 4096


def release() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as bell:
        bell.bind(("::", STALL))
        while True:
            bell.recv(1)
            RELEASED.set()


def main() -> None:
    servers = [Server(("::", port), Connection) for port in BEHAVIOURS]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("serving", flush=True)
    release()


if __name__ == "__main__":
    main()
