"""HTTP for operators, on loopback by default: health, metrics, configuration, endpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from mesh.errors import ConfigError
from mesh.model.address import SocketAddress
from waypoint.supervisor import Supervisor


@asynccontextmanager
async def serve_admin(
    supervisor: Supervisor, registry: CollectorRegistry, address: SocketAddress
) -> AsyncIterator[None]:
    """Serve while the block runs. Raises `ConfigError` if the address is taken."""
    runner = web.AppRunner(_app(supervisor, registry), access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, str(address.ip), address.port).start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(f"--admin {address}: {error.strerror}") from error
    try:
        yield
    finally:
        await runner.cleanup()


def _app(supervisor: Supervisor, registry: CollectorRegistry) -> web.Application:
    async def live(_: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def ready(_: web.Request) -> web.Response:
        is_ready = supervisor.is_ready
        text = "ready\n" if is_ready else "not every worker serves yet\n"
        return web.Response(status=200 if is_ready else 503, text=text)

    async def metrics(_: web.Request) -> web.Response:
        body = generate_latest(registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def config_dump(_: web.Request) -> web.Response:
        # A fresh copy: without the indexes that were cached beside the fields.
        return _json(replace(supervisor.snapshot))

    async def clusters(_: web.Request) -> web.Response:
        workers = sorted(supervisor.workers.items())
        return _json([{"worker": index, "stats": worker.stats} for index, worker in workers])

    app = web.Application()
    app.router.add_get("/healthz", ready)
    app.router.add_get("/healthz/live", live)
    app.router.add_get("/healthz/ready", ready)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/config_dump", config_dump)
    app.router.add_get("/clusters", clusters)
    return app


def _json(value: object) -> web.Response:
    body = msgspec.json.encode(value, enc_hook=str)
    return web.Response(body=body, content_type="application/json")
