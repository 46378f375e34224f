"""The web server behind the page: loopback only, one secret per start, a strict policy.

Whoever reads the page may see who talks to whom, so every question needs the secret, which is in
the part of the address that browsers do not send. The Host header must be ours: a foreign site
that points its name at 127.0.0.1 gets nothing.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files

from aiohttp import web

from agent.admin.client import AgentRefused
from agent.admin.codec import from_json, to_json
from agent.admin.question import AuthzQuestion
from agent.cli.reach.observers import Observer
from agent.dashboard.data import HISTORY_S, History, gather_overview, gather_story
from mesh.errors import ConfigError, MeshnodeError
from mesh.telemetry.window import WINDOW_S
from mesh.telemetry.window_stats import By

PAGE = "page"
SECRET_HEADER = "X-Meshnode-Secret"
MAX_REQUEST_BYTES = 64 * 1024
LONGEST_S = 7 * 86400.0
KINDS = {
    "index.html": "text/html",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
}
SCRIPTS = ("app.js", "dom.js", "graph.js", "tables.js", "views.js", "story.js", "simulator.js")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Dashboard:
    """The application's handlers.

    Args:
        observers: who can be asked now; called for every question.
        secret: what a question must carry.
        history: a Prometheus, where there is one.
    """

    def __init__(
        self,
        observers: Callable[[], Sequence[Observer]],
        secret: str,
        history: History | None = None,
    ) -> None:
        self._observers = observers
        self._secret = secret
        self._history = history

    def app(self) -> web.Application:
        """Build the application."""
        app = web.Application(
            middlewares=[_hardened, self._guarded], client_max_size=MAX_REQUEST_BYTES
        )
        for name, kind in {**KINDS, **dict.fromkeys(SCRIPTS, "text/javascript")}.items():
            path = "/" if name == "index.html" else f"/{name}"
            app.router.add_get(path, _static(name, kind))
        app.router.add_get("/api/overview", self.overview)
        app.router.add_get("/api/story", self.story)
        app.router.add_post("/api/authz", self.authz)
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith("/api/"):
            return await handler(request)
        given = request.headers.get(SECRET_HEADER, "")
        if not hmac.compare_digest(given.encode(), self._secret.encode()):
            text = "this page was opened without its secret: use the address that was printed"
            return _error(403, "secret", text)
        try:
            return await handler(request)
        except ConfigError as error:
            return _error(400, "bad_request", str(error))
        except AgentRefused as error:
            return _error(400, error.code, str(error))
        except MeshnodeError as error:
            return _error(502, "no_answer", str(error))

    async def overview(self, request: web.Request) -> web.Response:
        """GET /api/overview?seconds=60"""
        seconds = _seconds(request.query.get("seconds", "60"))
        found = await asyncio.to_thread(
            lambda: gather_overview(self._observers(), seconds, self._history)
        )
        return await asyncio.to_thread(_json, found)

    async def story(self, request: web.Request) -> web.Response:
        """GET /api/story?by=service&name=NAMESPACE/NAME&seconds=3600"""
        seconds = _seconds(request.query.get("seconds", f"{HISTORY_S:.0f}"), LONGEST_S)
        by, name = request.query.get("by", ""), request.query.get("name", "")
        if by not in (By.SERVICE, By.WORKLOAD) or "/" not in name:
            raise ConfigError("by must be service or workload, name NAMESPACE/NAME")
        found = await asyncio.to_thread(
            lambda: gather_story(self._observers(), By(by), name, seconds, self._history)
        )
        return _json(found)

    async def authz(self, request: web.Request) -> web.Response:
        """POST /api/authz"""
        question = from_json(await request.read(), AuthzQuestion)
        return _json(await asyncio.to_thread(self._judge, question))

    def _judge(self, question: AuthzQuestion) -> object:
        failure: MeshnodeError = ConfigError("no agent is running on this machine")
        for one in self._observers():
            if one.is_node:
                try:
                    return one.client.authz(question)
                except AgentRefused:
                    raise
                except MeshnodeError as error:
                    failure = error
        raise failure


def _static(name: str, kind: str) -> Handler:
    async def serve(_request: web.Request) -> web.StreamResponse:
        body = files("agent.dashboard").joinpath(PAGE, name).read_bytes()
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return serve


@web.middleware
async def _hardened(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.url.host not in LOCAL_NAMES:
        return _error(421, "host", "this server answers to 127.0.0.1 and localhost only")
    try:
        response = await handler(request)
    except web.HTTPException as error:
        response = _error(error.status, "http", error.reason or "error")
    response.headers.update(HEADERS)
    return response


def _seconds(text: str, most: float = WINDOW_S) -> float:
    try:
        seconds = float(text)
    except ValueError as error:
        raise ConfigError(f"seconds={text!r} is not a number") from error
    if not 1 <= seconds <= most:
        raise ConfigError(f"seconds={text}: use 1 to {most:.0f}")
    return seconds


def _json(value: object) -> web.Response:
    response = web.Response(text=to_json(value), content_type="application/json")
    response.enable_compression()
    return response


def _error(status: int, code: str, message: str) -> web.Response:
    body = {"error": {"code": code, "message": message}}
    response = web.Response(status=status, text=to_json(body), content_type="application/json")
    response.headers.update(HEADERS)
    return response
