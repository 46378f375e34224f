"""The API stand-in inside a node's network namespace, for agents that run there."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from agent.netns import call_in_netns, open_netns
from tests.support.kube_api import KubeApiServer

START_TIMEOUT_S = 20.0


class Cluster:
    """A running server; its methods may be called from the test's thread."""

    def __init__(self) -> None:
        self._server = KubeApiServer()
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    def apply(self, *manifests: Mapping[str, object]) -> None:
        """Create or replace objects."""
        done = asyncio.run_coroutine_threadsafe(self._server.apply(*manifests), self._loop)
        done.result(START_TIMEOUT_S)

    def write_kubeconfig(self, path: Path) -> Path:
        """How to reach it from inside the namespace."""
        name = "test"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": name,
                    "clusters": [
                        {
                            "name": name,
                            "cluster": {"server": f"http://127.0.0.1:{self._server.port}"},
                        }
                    ],
                    "users": [{"name": name, "user": {}}],
                    "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
                }
            )
        )
        path.chmod(0o600)
        return path

    def serve(self, netns_fd: int) -> None:
        """Serve until `stop`; blocks its thread."""
        call_in_netns(netns_fd, lambda: asyncio.run(self._serve()))

    def wait_started(self) -> None:
        assert self._started.wait(START_TIMEOUT_S), "the API server did not start"

    def stop(self) -> None:
        if self._started.is_set():
            self._loop.call_soon_threadsafe(self._stop.set)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._server.running():
            self._started.set()
            await self._stop.wait()


@contextmanager
def cluster_in(netns_path: str) -> Iterator[Cluster]:
    """Serve in a namespace while the block runs."""
    made = Cluster()
    fd = open_netns(netns_path)
    thread = threading.Thread(target=made.serve, args=(fd,))
    thread.start()
    try:
        made.wait_started()
        yield made
    finally:
        made.stop()
        thread.join(START_TIMEOUT_S)
        os.close(fd)
