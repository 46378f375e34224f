"""Plain HTTP for orchestrators: 200 `ok`, or 503 with the reason, at `/healthz`; `/metrics`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from mesh.errors import ConfigError


@asynccontextmanager
async def health_endpoint(
    host: str, port: int, problem: Callable[[], str], registry: CollectorRegistry
) -> AsyncIterator[int]:
    """Serve while entered; yields the port. `problem` returns an empty string when all is well."""

    async def healthz(request: web.Request) -> web.Response:
        reason = problem()
        return web.Response(status=503 if reason else 200, text=f"{reason or 'ok'}\n")

    async def metrics(_request: web.Request) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=generate_latest(registry), headers=headers)

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigError(
                f"health cannot listen on {host} port {port}: {error.strerror}"
            ) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
