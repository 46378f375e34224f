"""Cost of an HTTP/2 session in memory: both sides of a CONNECT, DATA in chunks, idle streams.

`python -m bench.http2_session` prints one line per engine and the ratio. No sockets, no TLS: what
is measured is what the engine itself costs on one core. Best of five rounds.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mesh.http2.contract import DataReceived, HeadersReceived, Http2Session, SessionSettings
from mesh.http2.select import Engine, new_session

CONNECT = [
    (b":method", b"CONNECT"),
    (b":authority", b"192.0.2.17:8080"),
    (b"baggage", b"k8s.namespace.name=shop,k8s.deployment.name=cart,service.name=cart"),
    (b"forwarded", b'for="192.0.2.9:41234"'),
    (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
]
OK = [(b":status", b"200")]
ROUNDS = 5
IDLE_STREAMS = 2000
ENGINES: tuple[Engine, ...] = ("nghttp2", "h2")


def connected(engine: Engine, streams: int = 200) -> tuple[Http2Session, Http2Session]:
    def side(client: bool) -> Http2Session:
        settings = SessionSettings(
            client=client,
            stream_window_bytes=4 << 20,
            connection_window_bytes=16 << 20,
            max_frame_bytes=1 << 20,
            max_header_list_bytes=1 << 16,
            max_concurrent_streams=streams,
        )
        return new_session(settings, engine)

    client, server = side(True), side(False)
    for _ in range(3):
        carry(client, server)
        carry(server, client)
    return client, server


def carry(src: Http2Session, dst: Http2Session) -> int:
    """Move what `src` has to say; consume payload at once. Returns the payload's bytes."""
    out, _ = src.take_output()
    if not out:
        return 0
    payload = 0
    for event in dst.receive(out):
        if isinstance(event, DataReceived):
            payload += len(event.data)
            dst.consume(event.stream, event.flow_bytes)
    return payload


def open_close(client: Http2Session, server: Http2Session, count: int) -> None:
    for _ in range(count):
        stream = client.send_request(CONNECT)
        carry(client, server)
        server.send_headers(stream, OK)
        carry(server, client)
        client.send_data(stream, b"", end_stream=True)
        carry(client, server)
        server.send_data(stream, b"", end_stream=True)
        carry(server, client)


def chunks(client: Http2Session, server: Http2Session, count: int, size: int) -> None:
    stream = client.send_request(CONNECT)
    carry(client, server)
    server.send_headers(stream, OK)
    carry(server, client)
    chunk = bytes(size)
    received = 0
    for _ in range(count):
        client.send_data(stream, chunk)
        received += carry(client, server)
        carry(server, client)
    client.reset(stream, 8)
    carry(client, server)
    if received != count * size:
        raise RuntimeError(f"{received} bytes arrived of {count * size}")


def best_us(
    engine: Engine, count: int, run: Callable[[Http2Session, Http2Session, int], None]
) -> float:
    """Microseconds for one of `count` steps, both sides together."""
    client, server = connected(engine)
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run(client, server, count)
        best = min(best, time.perf_counter() - start)
    return best / count * 1e6


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def idle_stream_bytes(engine: Engine) -> float:
    """Resident bytes of one open, silent stream on one side of the connection."""
    pairs = [connected(engine, IDLE_STREAMS) for _ in range(5)]
    gc.collect()
    before = resident_bytes()
    for client, server in pairs:
        for _ in range(IDLE_STREAMS):
            client.send_request(CONNECT)
        out, _ = client.take_output()
        for event in server.receive(out):
            if isinstance(event, HeadersReceived):
                server.send_headers(event.stream, OK)
        carry(server, client)
    gc.collect()
    return (resident_bytes() - before) / (len(pairs) * IDLE_STREAMS * 2)


def idle_in_fresh_process(engine: Engine) -> float:
    """Memory that another measurement freed would be used again and hide what is asked for."""
    command = [sys.executable, "-m", "bench.http2_session", "--idle", engine]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(engine: Engine) -> dict[str, float]:
    scale = 1 if engine == "nghttp2" else 20
    return {
        "bytes per idle stream": idle_in_fresh_process(engine),
        "us per CONNECT, open and close": best_us(engine, 2000 // scale, open_close),
        "us per 16 KiB": best_us(engine, 2000 // scale, lambda c, s, n: chunks(c, s, n, 1 << 14)),
        "us per 64 KiB": best_us(engine, 1000 // scale, lambda c, s, n: chunks(c, s, n, 1 << 16)),
        "us per 256 KiB": best_us(engine, 400 // scale, lambda c, s, n: chunks(c, s, n, 1 << 18)),
    }


def main() -> None:
    first, second = (measure(engine) for engine in ENGINES)
    print(f"{'':32}{ENGINES[0]:>10}{ENGINES[1]:>10}     ratio")
    for name, value in first.items():
        print(f"{name:32}{value:10.1f}{second[name]:10.1f}{second[name] / value:9.1f}x")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--idle"]:
        print(idle_stream_bytes("nghttp2" if sys.argv[2] == "nghttp2" else "h2"))
    else:
        main()
