"""Facts about kernel TLS, for a tunnel engine that might use it: `python -m scripts.kernels.ktls`.

One connection over loopback, keys made up: what one side sends as kTLS the other receives as kTLS,
and a plain reader in between would see TLS records. Prints one fact a line, `name=value`.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess

TCP_ULP, SOL_TLS, TLS_TX, TLS_RX = 31, 282, 1, 2
TLS_1_3 = 0x0304
_CIPHERS = {"aes-gcm-128": (51, 16), "aes-gcm-256": (52, 32)}


def crypto_info(cipher: int, key_bytes: int) -> bytes:
    """struct tls12_crypto_info_aes_gcm_*: head, iv, key, salt, sequence number."""
    key = bytes(range(key_bytes))
    return struct.pack("=HH", TLS_1_3, cipher) + b"i" * 8 + key + b"s" * 4 + b"\0" * 8


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


def attempt(cipher: int, key_bytes: int) -> str:
    """Send a message through the kernel's TLS; `works`, or what the kernel said."""
    client, server = pair()
    with client, server:
        try:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
            client.setsockopt(SOL_TLS, TLS_TX, crypto_info(cipher, key_bytes))
            server.setsockopt(SOL_TLS, TLS_RX, crypto_info(cipher, key_bytes))
            message = os.urandom(100_000)
            client.settimeout(20)
            server.settimeout(20)
            received = b""
            client.sendall(message)
            while len(received) < len(message):
                received += server.recv(65536)
        except OSError as error:
            return f"{error.strerror}"
        return "works" if received == message else "garbled"


def on_the_wire() -> str:
    """The first bytes that a plain reader sees."""
    client, server = pair()
    with client, server:
        try:
            client.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
            client.setsockopt(SOL_TLS, TLS_TX, crypto_info(*_CIPHERS["aes-gcm-128"]))
            client.sendall(b"plain text")
        except OSError as error:
            return f"{error.strerror}"
        server.settimeout(20)
        return server.recv(64)[:5].hex(" ")


def main() -> None:
    """Print every fact."""
    subprocess.run(["modprobe", "tls"], check=False)
    print(f"kernel={os.uname().release}")
    print(f"module={'loaded' if os.path.exists('/proc/net/tls_stat') else 'absent'}")
    for name, (cipher, size) in _CIPHERS.items():
        print(f"{name}={attempt(cipher, size)}")
    print(f"record={on_the_wire()}")


if __name__ == "__main__":
    main()
