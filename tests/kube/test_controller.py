"""`meshnode controller --source kubernetes` as a process, from pods to certificates."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from mesh.identity.bootstrap import init_ca
from mesh.identity.client import CaClient, TokenFile
from mesh.identity.errors import BadTokenError, CaUnavailableError
from mesh.identity.state_dir import StateDir
from mesh.model.identity import SpiffeId
from tests.kube.test_connect import kubeconfig
from tests.kube.test_token_review import TOKEN, agent_pod, ask, review, workload
from tests.support.kube_api import KubeApiServer

TIMEOUT_S = 60.0


@asynccontextmanager
async def controller(config: Path, state_dir: Path, *options: str) -> AsyncIterator[Process]:
    """The process, ended when the block is left."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.cli", "controller"),
        *("--source", f"kubernetes:{config}"),
        *("--ca", str(state_dir), "--listen", f"127.0.0.1:{free_port()}", *options),
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def free_port() -> int:
    """A port that nobody has now; the command takes no 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def signed_at_last(state_dir: Path, port: int, account: str) -> None:
    """Ask until it is signed; the test's own deadline ends this."""
    while True:
        if await ask(state_dir, port, account, TOKEN) == 200:
            return
        await asyncio.sleep(0.05)


async def an_agent_joins(state_dir: Path, port: int) -> None:
    """What an agent does with its projected token; Kubernetes renews the file at any time."""
    file = state_dir.parent / "token"
    root = StateDir(state_dir).load_server_root().roots_pem
    token = TokenFile(path=file, server_root_pem=root)
    here = SpiffeId(trust_domain="cluster.local", namespace="shop", service_account="here")
    async with CaClient(host="127.0.0.1", port=port, token=token) as client:
        with pytest.raises(CaUnavailableError, match="cannot be read"):
            await client.fetch(here)
        file.write_text("an-old-token\n")
        with pytest.raises(BadTokenError):
            await client.fetch(here)
        file.write_text(f"{TOKEN}\n")
        assert (await client.fetch(here)).svid.identity == here


async def port_of(process: Process) -> int:
    """Wait until it serves."""
    assert process.stderr is not None
    said = b""
    async for line in process.stderr:
        said += line
        found = re.search(rb"serving certificates on port (\d+)", line)
        if found:
            return int(found[1])
    raise AssertionError(said.decode())


def test_it_signs_for_a_node_what_runs_there_and_follows_the_cluster(tmp_path: Path) -> None:
    state_dir = tmp_path / "ca"
    init_ca(state_dir, trust_domain="cluster.local", now=time.time(), random_bytes=os.urandom)

    async def run() -> None:
        server = KubeApiServer()
        server.reviews[TOKEN] = review()
        async with asyncio.timeout(TIMEOUT_S), server.running():
            await server.apply(
                {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {"name": "shop", "labels": {"meshnode.io/dataplane": "enabled"}},
                },
                agent_pod(),
                workload("here", "one", "10.0.0.1"),
                workload("there", "two", "10.0.0.2"),
            )
            config = kubeconfig(tmp_path, {"server": f"http://127.0.0.1:{server.port}"}, {})
            async with controller(config, state_dir) as process:
                port = await port_of(process)
                assert await ask(state_dir, port, "here", TOKEN) == 200
                assert await ask(state_dir, port, "there", TOKEN) == 403
                assert await ask(state_dir, port, "here", "a-token-of-nobody") == 401
                await an_agent_joins(state_dir, port)
                # The pod moves, and with it the right to its identity.
                await server.delete(workload("there", "two", "10.0.0.2"))
                await server.apply(workload("there", "one", "10.0.0.3"))
                await signed_at_last(state_dir, port, "there")
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0

    asyncio.run(run())


def test_it_ends_when_told_to_while_the_api_server_keeps_it_waiting(tmp_path: Path) -> None:
    state_dir = tmp_path / "ca"
    init_ca(state_dir, trust_domain="cluster.local", now=time.time(), random_bytes=os.urandom)

    async def run() -> None:
        server = KubeApiServer()
        server.faults.forbidden.add("pods")
        async with asyncio.timeout(TIMEOUT_S), server.running():
            config = kubeconfig(tmp_path, {"server": f"http://127.0.0.1:{server.port}"}, {})
            async with controller(config, state_dir) as process:
                await server.wait_asked("/api/v1/pods", 1)
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0

    asyncio.run(run())


@pytest.mark.slow
def test_killed_while_it_signs_nothing_is_lost(tmp_path: Path) -> None:
    """The next one goes on with the keys of the Secret; who waited asks again."""

    async def one_controller(config: Path, name: str, server: KubeApiServer) -> bytes:
        state_dir, asked = tmp_path / name, server.asked("tokenreviews")
        async with controller(config, state_dir, "--namespace=meshnode-system") as process:
            port = await port_of(process)
            root = StateDir(state_dir).load_server_root().roots_pem
            waiting = [f"token {name} {number}" for number in range(8)]
            for token in waiting:
                server.reviews[token] = review()
            async with asyncio.TaskGroup() as group:
                for token in waiting:
                    group.create_task(tolerant(state_dir, port, token))
                await server.wait_asked("tokenreviews", asked + 1)
                process.kill()
            await process.wait()
        return root

    async def tolerant(state_dir: Path, port: int, token: str) -> None:
        try:
            await ask(state_dir, port, "here", token)
        except aiohttp.ClientError:
            return  # Cut off in the middle: that is what this is about.

    async def run() -> None:
        server = KubeApiServer(has_gateway_api=True)
        server.reviews[TOKEN] = review()
        async with asyncio.timeout(2 * TIMEOUT_S), server.running():
            await server.apply(
                {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {"name": "shop", "labels": {"meshnode.io/dataplane": "enabled"}},
                },
                agent_pod(),
                workload("here", "one", "10.0.0.1"),
            )
            config = kubeconfig(tmp_path, {"server": f"http://127.0.0.1:{server.port}"}, {})
            roots = {await one_controller(config, name, server) for name in ("first", "second")}
            assert len(roots) == 1
            async with controller(
                config, tmp_path / "third", "--namespace=meshnode-system"
            ) as last:
                port = await port_of(last)
                assert await ask(tmp_path / "third", port, "here", TOKEN) == 200

    asyncio.run(run())
