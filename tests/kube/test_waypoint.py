"""A waypoint as a process, with what its pod has in a cluster: a token, roots, and the API."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import aiohttp

from mesh.identity.state_dir import StateDir
from tests.kube.replicas import TIMEOUT_S, Stage, stage
from tests.kube.test_token_review import pod_review
from tests.support.processes import free_port

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "wp",
        "namespace": "shop",
        "labels": {
            "gateway.networking.k8s.io/gateway-name": "wp",
            "gateway.networking.k8s.io/gateway-class-name": "meshnode-waypoint",
        },
    },
    "spec": {"nodeName": "two", "serviceAccountName": "wp"},
    "status": {"phase": "Running", "podIP": "127.0.0.1"},
}


async def answers(url: str) -> bool:
    """Whether the waypoint says that it is well: it has its certificate and serves."""
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def run_waypoint(on: Stage, tmp_path: Path) -> None:
    controller = await on.start("one")
    await on.server.apply(POD)
    on.server.reviews["token of wp"] = pod_review(on.server, "wp", "two")
    (tmp_path / "token").write_text("token of wp")
    root = StateDir(controller.path).load_server_root().roots_pem
    (tmp_path / "root.pem").write_bytes(root)
    admin = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.cli", "waypoint", "--name=shop/wp", "--workers=1"),
        *(f"--source=kubernetes:{on.config}", "--service-account=wp", "--node=two"),
        *(f"--ca-address=127.0.0.1:{controller.port}", f"--join-token-file={tmp_path}/token"),
        *(f"--ca-root-file={tmp_path}/root.pem", f"--listen=127.0.0.1:{free_port()}"),
        f"--admin=127.0.0.1:{admin}",
        stdout=DEVNULL,
        stderr=PIPE,
    )
    try:
        while not await answers(f"http://127.0.0.1:{admin}/healthz"):
            assert process.returncode is None
            await asyncio.sleep(0.1)
        assert on.server.asked("tokenreviews") >= 1
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        said = (await process.communicate())[1]
        print(said.decode())


def test_it_gets_its_certificate_by_its_own_token_and_serves(tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), stage(tmp_path) as on:
            await run_waypoint(on, tmp_path)

    asyncio.run(run())
