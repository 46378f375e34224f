"""An API server in this process: real HTTP, honest list and watch, faults on demand.

Use `KubeApiServer` as an async context manager and put objects in through `server.apply(...)`;
`server.access` is what a client connects with.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from aiohttp import web

from mesh.sources.kubernetes.access import ApiAccess
from tests.support.kube_kinds import CORE, GATEWAY_API, ISTIO, OURS
from tests.support.kube_paths import Target, parse_path
from tests.support.kube_store import KubeStore, Name, Object, StatusError, merge_patch, metadata
from tests.support.port_forward import Listeners, forward_port


def bearer(token: str) -> Callable[[], Awaitable[str]]:
    """Credentials that stay as they are; none where the token is empty."""

    async def header() -> str:
        return f"Bearer {token}" if token else ""

    return header


@dataclass(slots=True)
class Faults:
    """What goes wrong.

    Attributes:
        failures: status and Retry-After (0 = none) for the next requests.
        delay_s: before every answer.
        repeat_events: every event of a watch is sent this many times more.
        forget_pages: no list lasts beyond its first page.
        forbidden: collections that nobody may read (403).
        watch_errors: codes of ERROR events that end the next watches.
        down: connections are closed without an answer.
    """

    failures: list[tuple[int, float]] = field(default_factory=list)
    delay_s: float = 0.0
    repeat_events: int = 0
    forget_pages: bool = False
    forbidden: set[str] = field(default_factory=set)
    watch_errors: list[int] = field(default_factory=list)
    down: bool = False


class KubeApiServer:
    """One server on a port that the kernel chooses, of 127.0.0.1 unless told otherwise."""

    def __init__(
        self, *, token: str = "", has_gateway_api: bool = False, has_istio: bool = False
    ) -> None:
        self.store = KubeStore()
        more = (*(GATEWAY_API if has_gateway_api else ()), *(ISTIO if has_istio else ()))
        for plural, kind, version in (*CORE, *OURS, *more):
            self.store.serve(plural, kind, version)
        self.faults = Faults()
        self.requests: list[str] = []
        """Method and path with query of every request."""
        self.reviews: dict[str, Mapping[str, object]] = {}
        """Token -> TokenReview.status."""
        self.extra: dict[tuple[str, str], Callable[[bytes], Object]] = {}
        """Method and path -> what is answered to a body, or raised as `StatusError`."""
        self.forwarded: dict[Name, Listeners] = {}
        """Pod -> its ports that may be forwarded."""
        self.port = 0
        self._token = token
        self._wake = asyncio.Condition()
        self._generation = 0
        self._bookmarks = 0
        self._watches: set[asyncio.Task[object]] = set()

    @property
    def access(self) -> ApiAccess:
        """How to connect."""
        server = f"http://127.0.0.1:{self.port}"
        return ApiAccess(server=server, authorization=bearer(self._token))

    @asynccontextmanager
    async def running(
        self, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1"
    ) -> AsyncIterator[KubeApiServer]:
        """Serve until the block is left."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, self.port, ssl_context=tls).start()
            self.port = int(runner.addresses[0][1])
            yield self
        finally:
            await self.drop_watches()
            await runner.cleanup()

    # -- what tests do --------------------------------------------------------------------------

    async def apply(self, *manifests: Mapping[str, object]) -> None:
        """Create objects, or replace them with everything they have, status included."""
        for manifest in manifests:
            name, key = self._locate(manifest)
            if key in self.store.collection(name).objects:
                self.store.update(name, key, manifest, status=False)
                if "status" in manifest:
                    self.store.update(name, key, manifest, status=True)
            else:
                self.store.create(name, manifest)
        await self.publish()

    async def delete(self, manifest: Mapping[str, object]) -> None:
        """Delete an object by its manifest."""
        name, key = self._locate(manifest)
        self.store.delete(name, key)
        await self.publish()

    async def publish(self) -> None:
        """Tell the watches that there is something new."""
        async with self._wake:
            self._generation += 1
            self._wake.notify_all()

    async def bookmark(self) -> None:
        """Tell every watch how far it has come."""
        self._bookmarks += 1
        await self.publish()

    async def drop_watches(self) -> None:
        """Break every watch in the middle, without an end of the answer."""
        for task in list(self._watches):
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def wait_watched(self, count: int) -> None:
        """Wait until this many watches are open."""
        async with self._wake:
            await self._wake.wait_for(lambda: len(self._watches) >= count)

    async def wait_asked(self, text: str, count: int) -> None:
        """Wait until this many requests contained a text."""
        async with self._wake:
            await self._wake.wait_for(lambda: self.asked(text) >= count)

    def asked(self, text: str) -> int:
        """How many requests contained a text."""
        return sum(text in line for line in self.requests)

    def _locate(self, manifest: Mapping[str, object]) -> tuple[str, Name]:
        group = str(manifest["apiVersion"]).rpartition("/")[0]
        for name, collection in self.store.collections.items():
            if collection.kind == manifest["kind"] and name.partition(".")[2] == group:
                meta = metadata(dict(manifest))
                return name, (str(meta.get("namespace", "")), str(meta["name"]))
        raise StatusError(404, "NotFound", f"{manifest['kind']} is not served")

    # -- answers --------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path_qs}")
        async with self._wake:
            self._wake.notify_all()
        if self.faults.down:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        if self.faults.delay_s:
            await asyncio.sleep(self.faults.delay_s)
        try:
            self._admit(request)
            return await self._route(request)
        except StatusError as error:
            return _json(error.code, error.body, error.retry_after_s)

    def _admit(self, request: web.Request) -> None:
        if self.faults.failures:
            code, retry_after = self.faults.failures.pop(0)
            raise StatusError(code, "Injected", "injected failure", retry_after)
        if self._token and request.headers.get("Authorization") != f"Bearer {self._token}":
            raise StatusError(401, "Unauthorized", "Unauthorized")

    async def _route(self, request: web.Request) -> web.StreamResponse:
        extra = self.extra.get((request.method, request.path))
        if extra is not None:
            return _json(200, extra(await request.read()))
        target = parse_path(request.path)
        if target.collection == "tokenreviews.authentication.k8s.io":
            return await self._review(request)
        if target.collection in self.faults.forbidden:
            raise StatusError(403, "Forbidden", f"{target.collection} is forbidden")
        if target.subresource == "portforward":
            if f"{target.collection}/portforward" in self.faults.forbidden:
                raise StatusError(403, "Forbidden", "pods/portforward is forbidden")
            self.store.get(target.collection, target.key)
            return await forward_port(request, self.forwarded.get(target.key, {}))
        collection = self.store.collection(target.collection)
        if target.api_version not in collection.api_versions:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        if not target.name:
            if request.method == "POST":
                return await self._write(request, target)
            query = dict(parse_qsl(request.query_string))
            if query.get("watch") in ("1", "true"):
                return await self._watch(request, target, query)
            return self._list(target, query)
        if request.method == "GET":
            return _json(200, self.store.get(target.collection, target.key))
        return await self._write(request, target)

    async def _write(self, request: web.Request, target: Target) -> web.Response:
        store, name, key = self.store, target.collection, target.key
        if request.method == "DELETE":
            answer = _json(200, store.delete(name, key))
        else:
            body = json.loads(await request.read())
            answer = _json(200, self._change(request, body, target))
        await self.publish()
        return answer

    def _change(self, request: web.Request, body: Object, target: Target) -> Object:
        store, name, key = self.store, target.collection, target.key
        if request.method == "POST":
            metadata(body).setdefault("namespace", target.namespace)
            return store.create(name, body)
        if request.content_type == "application/apply-patch+yaml":
            metadata(body).setdefault("namespace", target.namespace)
            manager = request.query.get("fieldManager", "")
            if not manager:
                raise StatusError(400, "BadRequest", "fieldManager is required for apply patch")
            return store.apply(name, key, body, manager, force=request.query.get("force") == "true")
        if request.method == "PATCH":
            if request.content_type != "application/merge-patch+json":
                raise StatusError(415, "UnsupportedMediaType", request.content_type)
            patched = merge_patch(store.get(name, key), body)
            if not isinstance(patched, dict):
                raise StatusError(400, "BadRequest", "not an object")
            body = patched
        if request.method in ("PATCH", "PUT"):
            return store.update(name, key, body, status=target.is_status)
        raise StatusError(405, "MethodNotAllowed", request.method)

    async def _review(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        status = self.reviews.get(body["spec"]["token"], {"authenticated": False})
        return _json(201, {**body, "status": status})

    # -- list and watch -------------------------------------------------------------------------

    def _list(self, target: Target, query: Mapping[str, str]) -> web.Response:
        limit, token = int(query.get("limit", "0")), query.get("continue", "")
        if self.faults.forget_pages:
            self.store.forget_tokens()
        selector = query.get("labelSelector", "")
        version, items, following, left = self.store.page(
            target.collection, target.namespace, limit, token
        )
        items = [item for item in items if _selects(selector, item)]
        meta: Object = {"resourceVersion": str(version)}
        if following:
            meta |= {"continue": following, "remainingItemCount": left}
        kind = self.store.collection(target.collection).kind
        head = {"kind": f"{kind}List", "apiVersion": target.api_version, "metadata": meta}
        text = json.dumps(head).encode()[:-1] + b',"items":[' + b",".join(items) + b"]}"
        return web.Response(body=text, content_type="application/json")

    async def _watch(
        self, request: web.Request, target: Target, query: Mapping[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request is answered by a task")
        self._watches.add(task)
        await self.publish()
        try:
            async with asyncio.timeout(float(query.get("timeoutSeconds", "1800"))):
                await self._stream(
                    response, target, int(query.get("resourceVersion") or "0"), query
                )
        except TimeoutError:
            await response.write_eof()
        except asyncio.CancelledError:
            if request.transport is not None:
                request.transport.abort()
            raise
        finally:
            self._watches.discard(task)
        return response

    async def _stream(
        self,
        response: web.StreamResponse,
        target: Target,
        position: int,
        query: Mapping[str, str],
    ) -> None:
        collection = self.store.collection(target.collection)
        bookmarks = self._bookmarks
        while True:
            seen = self._generation
            if position < collection.oldest:
                await response.write(_error(410, f"too old resource version: {position}"))
                return
            if self.faults.watch_errors:
                await response.write(_error(self.faults.watch_errors.pop(0), "injected"))
                return
            for event in [e for e in collection.history if e.version > position]:
                for _ in range(1 + self.faults.repeat_events):
                    await response.write(_event(event.type, event.raw))
                position = event.version
            if bookmarks != self._bookmarks and query.get("allowWatchBookmarks") == "true":
                # Everything up to this version was sent: that is what a bookmark says.
                bookmarks, position = self._bookmarks, self.store.version
                meta = {"metadata": {"resourceVersion": str(position)}}
                await response.write(_event("BOOKMARK", json.dumps(meta).encode()))
            async with self._wake:
                await self._wake.wait_for(lambda: self._generation != seen)  # noqa: B023


def _selects(selector: str, item: bytes) -> bool:
    """Equality-based label selectors, which is all that is used."""
    if not selector:
        return True
    labels = metadata(json.loads(item)).get("labels")
    wanted = dict(part.split("=", 1) for part in selector.split(","))
    return isinstance(labels, dict) and wanted.items() <= labels.items()


def _error(code: int, message: str) -> bytes:
    reason = "Expired" if code == 410 else "InternalError"
    return _event("ERROR", json.dumps(StatusError(code, reason, message).body).encode())


def _event(kind: str, raw: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), raw)


def _json(status: int, body: Mapping[str, object], retry_after_s: float = 0) -> web.Response:
    answer = web.Response(
        status=status, body=json.dumps(body).encode(), content_type="application/json"
    )
    if retry_after_s:
        answer.headers["Retry-After"] = f"{retry_after_s:.0f}"
    return answer
