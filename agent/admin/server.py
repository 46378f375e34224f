"""Small HTTP servers of the node process.

* On the unix socket, for the command line: everything, because only root gets in (mode 0600 in a
  directory of mode 0700).
* On TCP at loopback, where `--view` says so: every question, and no change but of the log level, by
  whoever the gate lets through. The kernel tells whose the other end is: only root's processes get
  an answer, which a kubelet that forwards a port is. So who may forward ports of the agent's pod
  may look, and nobody else; to change something takes a proof of its own.
* On TCP, for Prometheus and probes: `/metrics` and `/healthz/...` only, nothing that changes
  anything and nothing secret.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from agent.admin.authz import check_authz
from agent.admin.codec import from_json, to_json
from agent.admin.config import config_dump
from agent.admin.describe import What, describe
from agent.admin.matching import RoutesQuestion, find_routes
from agent.admin.question import AuthzQuestion
from agent.admin.stream import stream_monitor, stream_tap
from agent.admin.view import (
    Certificates,
    Connections,
    ErrorBody,
    ErrorDetail,
    LogRequest,
    LogStatus,
    NodeView,
)
from agent.capture.views import KernelTable
from agent.holder.wire import short_address
from agent.listening import bind_tcp
from mesh.errors import ConfigError, KernelError, MeshnodeError
from mesh.model.address import SocketAddress, parse_ip
from mesh.telemetry.window import WINDOW_S

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 64 * 1024
LOG_PATH = "/v1/log"
QUESTIONS = frozenset(("/v1/authz", "/v1/routes"))
"""Asked with POST, as they are long; they change nothing."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
OwnerOf = Callable[[SocketAddress, SocketAddress], int | None]
"""The uid behind the socket with this local and this remote address."""


class NotAllowed(MeshnodeError):
    """Whoever asks may look, but not change this. Says why."""


class Gate(Protocol):
    """Decides who may change something from afar."""

    async def check(self, token: str) -> None:
        """Return if the bearer of `token` may. Raises `NotAllowed`."""
        ...


@asynccontextmanager
async def serve_admin(view: NodeView, path: Path) -> AsyncIterator[None]:
    """Serve the command line on a unix socket while the context is open; unlink it afterwards.

    The directory must exist. A socket file that a killed node left is replaced (the node's lock
    makes sure there is no second node). Raises `ConfigError` if the path cannot be bound.
    """
    sock = _bind_unix(path)
    try:
        async with _running(admin_app(view), sock):
            yield
    finally:
        _close_unix(sock, path)


@asynccontextmanager
async def serve_view(
    view: NodeView, address: SocketAddress | None, owner_of: OwnerOf, gate: Gate | None = None
) -> AsyncIterator[SocketAddress | None]:
    """Answer root's questions on a loopback address, if there is one, while the context is open.

    `owner_of` tells who made the socket at the other end; without a gate nobody may change
    anything. Yields the address in use. Raises `ConfigError` if it is taken.
    """
    if address is None:
        yield None
        return
    sock = _bind_tcp(address, "view", "--view")
    guards = [_only_root(owner_of), _only_through(gate)]
    app = admin_app(view, middlewares=guards)
    try:
        async with _running(app, sock):
            yield SocketAddress(address.ip, sock.getsockname()[1])
    finally:
        sock.close()


@asynccontextmanager
async def serve_metrics(
    view: NodeView, registry: CollectorRegistry, address: SocketAddress
) -> AsyncIterator[SocketAddress]:
    """Serve metrics and health over TCP while the context is open.

    Yields the address in use (port 0 asks the kernel for one). Raises `ConfigError` if it is taken.
    """
    sock = _bind_tcp(address, "metrics", "--metrics")
    try:
        async with _running(metrics_app(view, registry), sock):
            yield SocketAddress(address.ip, sock.getsockname()[1])
    finally:
        sock.close()


def admin_app(view: NodeView, *, middlewares: Sequence[Middleware] = ()) -> web.Application:
    """The application behind the unix socket; `middlewares` narrow it down."""
    routes = AdminRoutes(view)
    every: list[Middleware] = [_errors_as_json, *middlewares]
    app = web.Application(middlewares=every, client_max_size=MAX_REQUEST_BYTES)
    app.router.add_get("/v1/status", routes.status)
    app.router.add_get("/v1/config", routes.config)
    app.router.add_get("/v1/certificates", routes.certificates)
    app.router.add_get("/v1/connections", routes.connections)
    app.router.add_post("/v1/authz", routes.authz)
    app.router.add_post("/v1/routes", routes.routes)
    app.router.add_get("/v1/describe", routes.describe)
    app.router.add_get("/v1/bpf/diff", routes.bpf_diff)
    app.router.add_get("/v1/bpf/tables/{table}", routes.table)
    app.router.add_get("/v1/traffic", routes.traffic)
    app.router.add_get("/v1/tap", routes.tap)
    app.router.add_get("/v1/bpf/monitor", routes.monitor)
    app.router.add_get(LOG_PATH, routes.log)
    app.router.add_post(LOG_PATH, routes.set_log)
    return app


class AdminRoutes:
    """One method per address of the admin socket."""

    def __init__(self, view: NodeView) -> None:
        self._view = view
        self._one_table = asyncio.Lock()

    async def status(self, _request: web.Request) -> web.Response:
        """GET /v1/status"""
        return _json(self._view.status())

    async def config(self, _request: web.Request) -> web.Response:
        """GET /v1/config"""
        return _json(config_dump(self._view.status().node, self._view.snapshot()))

    async def certificates(self, _request: web.Request) -> web.Response:
        """GET /v1/certificates"""
        status = self._view.status()
        return _json(Certificates(node=status.node, certificates=status.certificates))

    async def connections(self, _request: web.Request) -> web.Response:
        """GET /v1/connections"""
        found = await self._view.connections()
        return _json(Connections(node=self._view.status().node, connections=tuple(found)))

    async def authz(self, request: web.Request) -> web.Response:
        """POST /v1/authz"""
        question = from_json(await request.read(), AuthzQuestion)
        return _json(check_authz(self._view.snapshot(), question))

    async def routes(self, request: web.Request) -> web.Response:
        """POST /v1/routes"""
        question = from_json(await request.read(), RoutesQuestion)
        return _json(find_routes(self._view.snapshot(), question))

    async def describe(self, request: web.Request) -> web.Response:
        """GET /v1/describe?what=pod&name=NAMESPACE/NAME"""
        what, name = request.query.get("what", ""), request.query.get("name", "")
        if what not in set(What):
            raise ConfigError(f"what={what!r}: use {', '.join(What)}")
        pods = self._view.status().pods
        return _json(describe(self._view.snapshot(), What(what), name, pods))

    async def bpf_diff(self, _request: web.Request) -> web.Response:
        """GET /v1/bpf/diff"""
        return _json(await self._view.bpf_diff())

    async def table(self, request: web.Request) -> web.Response:
        """GET /v1/bpf/tables/links"""
        name = request.match_info["table"]
        if name not in set(KernelTable):
            raise ConfigError(f"there is no table {name!r}: use {', '.join(KernelTable)}")
        # The largest take a second of a processor: whoever looks must not get several.
        async with self._one_table:
            found = await self._view.kernel_table(KernelTable(name))
        return _json(found)

    async def traffic(self, request: web.Request) -> web.Response:
        """GET /v1/traffic?seconds=60&points=1&about=NAMESPACE/NAME"""
        seconds = _seconds(request.query.get("seconds", "60"))
        points, about = request.query.get("points") == "1", request.query.get("about", "")
        return _json(self._view.traffic(seconds, points=points, about=about))

    async def tap(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/tap?about=NAMESPACE/NAME&denied=1"""
        return await stream_tap(request, self._view.tap, self._view.status().node)

    async def monitor(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/bpf/monitor?denied=1"""
        return await stream_monitor(request, self._view.flows)

    async def log(self, _request: web.Request) -> web.Response:
        """GET /v1/log"""
        status = self._view.status()
        return _json(LogStatus(node=status.node, level=status.log_level))

    async def set_log(self, request: web.Request) -> web.Response:
        """POST /v1/log"""
        wanted = from_json(await request.read(), LogRequest)
        self._view.set_log_level(wanted.level)
        log.warning("the log level is %s from now on, as was asked for", wanted.level)
        return await self.log(request)


def metrics_app(view: NodeView, registry: CollectorRegistry) -> web.Application:
    """The application behind the TCP port."""

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        headers = {"Content-Type": content_type}
        response = web.Response(body=encode(registry), headers=headers)
        response.enable_compression()
        return response

    async def live(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_request: web.Request) -> web.Response:
        reasons = view.status().not_ready
        if not reasons:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="".join(f"{reason}\n" for reason in reasons))

    app = web.Application(client_max_size=MAX_REQUEST_BYTES)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz/live", live)
    app.router.add_get("/healthz/ready", ready)
    return app


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ConfigError as error:
        return _error(400, "bad_request", str(error))
    except KernelError as error:
        return _error(500, "kernel", str(error), error.hint)
    except MeshnodeError as error:
        return _error(500, "internal", str(error))
    except web.HTTPException as error:
        code = (error.reason or "error").lower().replace(" ", "_")
        return _error(error.status, code, f"{request.method} {request.path}: {error.reason}")


def _only_through(gate: Gate | None) -> Middleware:
    """Let questions pass, and a change of the log level by whoever proves to be allowed to."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "GET" or request.path in QUESTIONS:
            return await handler(request)
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if gate is None or kind != "Bearer":
            hint = "run the command on the node itself, or in the agent's pod"
            return _error(403, "read_only", "from afar this agent only answers questions", hint)
        try:
            await gate.check(token)
        except NotAllowed as error:
            return _error(403, "not_allowed", f"this agent refuses the change: {error}")
        return await handler(request)

    return guard


def _only_root(owner_of: OwnerOf) -> Middleware:
    """Answer the processes of root alone: loopback is open to everybody on the node."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        there, here = _end(request, "peername"), _end(request, "sockname")
        if there is None or here is None or owner_of(there, here) != 0:
            return _error(403, "not_root", "only root's processes are answered here")
        return await handler(request)

    return guard


def _end(request: web.Request, name: str) -> SocketAddress | None:
    found = request.get_extra_info(name)
    return SocketAddress(parse_ip(found[0]), found[1]) if found else None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError as error:
        raise ConfigError(f"seconds={text!r} is not a number") from error
    if not 1 <= seconds <= WINDOW_S:
        raise ConfigError(f"seconds={text}: use 1 to {WINDOW_S:.0f}")
    return seconds


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, text=to_json(value), content_type="application/json")


def _error(status: int, code: str, message: str, hint: str = "") -> web.Response:
    return _json(ErrorBody(error=ErrorDetail(code=code, message=message, hint=hint)), status)


@asynccontextmanager
async def _running(app: web.Application, sock: socket.socket) -> AsyncIterator[None]:
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
        yield
    finally:
        await runner.cleanup()


def _bind_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
        os.fchmod(sock.fileno(), 0o600)  # bind() gives the file the mode of the socket: no race
        with short_address(path) as name:
            sock.bind(name)
    except OSError as error:
        sock.close()
        raise ConfigError(f"admin socket {path}: {error.strerror or error}") from error
    return sock


def _close_unix(sock: socket.socket, path: Path) -> None:
    sock.close()
    path.unlink(missing_ok=True)


def _bind_tcp(address: SocketAddress, what: str, option: str) -> socket.socket:
    try:
        return bind_tcp(address)
    except OSError as error:
        raise ConfigError(
            f"{what} address {address}: {error.strerror}. Choose another with {option} HOST:PORT"
        ) from error
