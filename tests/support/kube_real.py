"""A real kube-apiserver with etcd, from the directory that KUBEBUILDER_ASSETS names (envtest)."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from kubernetes_asyncio.client import Configuration

READY_S = 90.0
TOKEN = "contract-token"


def assets() -> Path | None:
    """Where the binaries are; None where there are none."""
    named = os.environ.get("KUBEBUILDER_ASSETS", "")
    path = Path(named)
    has_both = all((path / name).is_file() for name in ("etcd", "kube-apiserver"))
    return path if named and has_both else None


@asynccontextmanager
async def real_api_server(binaries: Path, directory: Path) -> AsyncIterator[Configuration]:
    """Start both, wait until the API is ready, end both."""
    port, processes = _start(binaries, directory)
    try:
        await _wait_ready(f"https://127.0.0.1:{port}/readyz", processes)
        made = Configuration()
        made.host = f"https://127.0.0.1:{port}"
        made.verify_ssl = False
        made.api_key["BearerToken"] = f"Bearer {TOKEN}"
        yield made
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            await asyncio.to_thread(process.wait)


def _start(binaries: Path, directory: Path) -> tuple[int, list[subprocess.Popen[bytes]]]:
    etcd_port, peer_port, api_port = free_port(), free_port(), free_port()
    key = directory / "sa.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    (directory / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
    etcd_url = f"http://127.0.0.1:{etcd_port}"
    etcd = [
        str(binaries / "etcd"),
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={etcd_url}",
        f"--advertise-client-urls={etcd_url}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        "--unsafe-no-fsync",
    ]
    api = [
        str(binaries / "kube-apiserver"),
        f"--etcd-servers={etcd_url}",
        "--bind-address=127.0.0.1",
        f"--secure-port={api_port}",
        f"--cert-dir={directory / 'certs'}",
        f"--token-auth-file={directory / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--disable-admission-plugins=ServiceAccount",
    ]
    with (directory / "log").open("wb") as log:
        processes = [subprocess.Popen(argv, stdout=log, stderr=log) for argv in (etcd, api)]
    return api_port, processes


async def _wait_ready(url: str, processes: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + READY_S
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        while True:
            try:
                async with session.get(url, ssl=False) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError as error:
                if time.monotonic() > end or any(p.poll() is not None for p in processes):
                    raise AssertionError(f"the API server does not come: {error}") from error
            await asyncio.sleep(0.2)


def free_port() -> int:
    """A port that nobody has now; neither program takes 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
