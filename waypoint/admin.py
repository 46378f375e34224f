"""HTTP for operators, on loopback by default: health, metrics, configuration, endpoints, live
requests (see `waypoint.telemetry.tap`). A unix socket has the same for the command line of this
machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from mesh.errors import ConfigError
from mesh.model.address import SocketAddress
from mesh.model.snapshot import MeshSnapshot
from mesh.routing.problems import routing_problems
from mesh.routing.status import route_statuses
from mesh.run_files import drop_dead_sockets, waypoint_socket
from mesh.telemetry.window import WINDOW_S
from mesh.telemetry.window_feed import RecentTraffic
from waypoint.in_force import config_dump as dump_config
from waypoint.supervisor import Supervisor
from waypoint.telemetry.tap_stream import stream_tap

log = logging.getLogger(__name__)


@asynccontextmanager
async def serve_admin(
    supervisor: Supervisor, registry: CollectorRegistry, address: SocketAddress, directory: Path
) -> AsyncIterator[None]:
    """Serve while the block runs: on `address`, on a unix socket in `directory`, and on loopback
    where `--view` says so.

    Configuration and requests of others are shown only where nobody but this machine's root, or
    this network namespace, gets in. Raises `ConfigError` if an address is taken.
    """
    view = supervisor.options.view
    open_app = _app(supervisor, registry, is_private=address.ip.is_loopback)
    async with _served(open_app) as runner, AsyncExitStack() as stack:
        await _listen(runner, "--admin", address)
        if view is not None:
            viewed = _served(_app(supervisor, registry, is_private=True))
            await _listen(await stack.enter_async_context(viewed), "--view", view)
        path = waypoint_socket(supervisor.options.name, os.getpid(), directory)
        sock = bind_private(path)
        if sock is not None:
            stack.callback(path.unlink, missing_ok=True)
            private = await stack.enter_async_context(
                _served(_app(supervisor, registry, is_private=True))
            )
            await web.SockSite(private, sock).start()
        yield


@asynccontextmanager
async def _served(app: web.Application) -> AsyncIterator[web.AppRunner]:
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        yield runner
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, option: str, address: SocketAddress) -> None:
    try:
        await web.TCPSite(runner, str(address.ip), address.port).start()
    except OSError as error:
        raise ConfigError(f"{option} {address}: {error.strerror}") from error


def bind_private(path: Path) -> socket.socket | None:
    """A unix socket for its owner alone; None, said in the log, where there is no place for it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        drop_dead_sockets(path.parent)
        path.unlink(missing_ok=True)  # of a process that had our number before
        os.fchmod(sock.fileno(), 0o600)  # bind() gives the file the mode of the socket: no race
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        log.info("no admin socket at %s: %s", path, error.strerror)
        return None
    return sock


def _app(
    supervisor: Supervisor, registry: CollectorRegistry, *, is_private: bool
) -> web.Application:
    async def live(_: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def ready(_: web.Request) -> web.Response:
        is_ready = supervisor.is_ready
        text = "ready\n" if is_ready else "not every worker serves with a certificate yet\n"
        return web.Response(status=200 if is_ready else 503, text=text)

    async def metrics(_: web.Request) -> web.Response:
        body = generate_latest(registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def config_dump(_: web.Request) -> web.Response:
        return _json(dump_config(supervisor.snapshot, supervisor.options.name))

    async def problems(_: web.Request) -> web.Response:
        return _json(_problems(supervisor.snapshot))

    async def clusters(_: web.Request) -> web.Response:
        workers = sorted(supervisor.workers.items())
        return _json([{"worker": index, "stats": worker.stats} for index, worker in workers])

    async def tap(request: web.Request) -> web.StreamResponse:
        return await stream_tap(request, supervisor.taps)

    app = web.Application()
    if is_private:
        app.router.add_get("/v1/tap", tap)
        app.router.add_get("/v1/traffic", partial(_traffic, supervisor.metrics.recent))
        app.router.add_get("/config_dump", config_dump)
        app.router.add_get("/problems", problems)
        app.router.add_get("/clusters", clusters)
    app.router.add_get("/healthz", ready)
    app.router.add_get("/healthz/live", live)
    app.router.add_get("/healthz/ready", ready)
    app.router.add_get("/metrics", metrics)
    return app


def _problems(snapshot: MeshSnapshot) -> Mapping[str, object]:
    """What is wrong with the objects, and the conditions of every route."""
    found = (*snapshot.problems, *routing_problems(snapshot))
    return {"problems": found, "routes": route_statuses(snapshot)}


async def _traffic(recent: RecentTraffic | None, request: web.Request) -> web.Response:
    """GET /v1/traffic?seconds=60&points=1&about=NAMESPACE/NAME, as agents answer it."""
    query = request.query
    try:
        seconds = min(max(float(query.get("seconds", "60")), 1.0), WINDOW_S)
    except ValueError:
        raise web.HTTPBadRequest(text="seconds must be a number\n") from None
    if recent is None:
        raise web.HTTPNotFound
    points, about = query.get("points") == "1", query.get("about", "")
    return _json(recent.answer(seconds, points=points, about=about))


def _json(value: object) -> web.Response:
    body = msgspec.json.encode(value, enc_hook=str)
    return web.Response(body=body, content_type="application/json")
