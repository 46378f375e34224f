"""The page, served as `meshnode dashboard` serves it, and a browser that looks at it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from agent.admin.client import AdminClient
from agent.cli.reach.observers import Observer
from agent.dashboard.data import History
from agent.dashboard.server import Dashboard
from tests.unit.agent.admin.fake import FakeNode, running_admin

SECRET = "open-sesame"


@asynccontextmanager
async def served(
    node: FakeNode, directory: Path, history: History | None = None
) -> AsyncIterator[str]:
    """Serve the page about a node; yields its address without the secret."""
    socket = directory / "admin.sock"
    with running_admin(node, socket):
        asked = [Observer("node/n1", AdminClient("n1", socket))]
        runner = web.AppRunner(
            Dashboard(lambda: asked, SECRET, history).app(), shutdown_timeout=1.0
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()
