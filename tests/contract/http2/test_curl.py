"""An HTTP/2 client that is not ours, over a real socket."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading

import pytest

from mesh.http2.contract import DataReceived, Http2Session, StreamEnded
from mesh.http2.select import Engine, new_session
from tests.contract.http2.pair import OK, SERVER

BODY = bytes(range(256)) * 4096


def serve_echo(listener: socket.socket, session: Http2Session) -> None:
    """Answer each request with its own body, until the client hangs up."""
    bodies: dict[int, list[bytes]] = {}
    sock, _ = listener.accept()
    with sock:
        while data := sock.recv(1 << 16):
            for event in session.receive(data):
                match event:
                    case DataReceived(stream, payload, flow_bytes):
                        session.consume(stream, flow_bytes)
                        bodies.setdefault(stream, []).append(payload)
                    case StreamEnded(stream):
                        session.send_headers(stream, OK)
                        session.send_data(stream, b"".join(bodies.pop(stream, [])), end_stream=True)
                    case _:
                        pass
            while session.wants_output:
                sock.sendall(session.take_output()[0])


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_gets_its_body_back(engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(
            target=serve_echo, args=(listener, new_session(SERVER, engine)), daemon=True
        )
        thread.start()
        done = subprocess.run(
            [
                "curl",
                "-sS",
                "--max-time",
                "10",
                "--noproxy",
                "*",
                "--http2-prior-knowledge",
                "--data-binary",
                "@-",
                f"http://127.0.0.1:{port}/",
            ],
            input=BODY,
            capture_output=True,
            check=True,
        )
        thread.join(10)
    assert done.stdout == BODY
    assert not thread.is_alive()
