"""The I/O of key sources: small, bounded HTTP GETs, and a task per source that keeps it fresh.

The only module of this package that does I/O. TLS is verified; redirects are followed only a few
steps and never from https to http; a body has a largest size, compressed ones are not asked for.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urljoin, urlsplit

import aiohttp

from mesh.errors import UpstreamError
from mesh.jwt.jwks import Fetch, JwksLocation, JwksSource, JwksStatus, location_of
from mesh.jwt.keys import MAX_KEY_SET_BYTES, KeySet
from mesh.model.authentication import JwtRule

MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class KeyFetcher:
    """Gets documents of issuers. Owns its connections until `close`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls or ssl.create_default_context(), limit=8),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def get(self, url: str, *, timeout_s: float, allow_http: bool) -> bytes:
        """Get a document; raise `UpstreamError`. `timeout_s` spans redirects and body."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._follow(url, allow_http)
        except TimeoutError as error:
            raise UpstreamError(f"{_shown(url)} took longer than {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            detail = str(error) or type(error).__name__
            raise UpstreamError(f"{_shown(url)} cannot be fetched: {detail}") from error

    async def _follow(self, url: str, allow_http: bool) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            scheme = urlsplit(url).scheme
            if scheme != "https" and not (allow_http and scheme == "http"):
                raise UpstreamError(f"{_shown(url)} is not https")
            async with self._session.get(url, allow_redirects=False) as reply:
                if reply.status not in _REDIRECTS:
                    return await _body(reply)
                target = reply.headers.get("Location")
                if target is None:
                    raise UpstreamError(f"{_shown(url)} redirects to nowhere")
                allow_http = allow_http and scheme == "http"
                url = urljoin(url, target)
        raise UpstreamError(f"{_shown(url)}: more than {MAX_REDIRECTS} redirects")


async def _body(reply: aiohttp.ClientResponse) -> bytes:
    if reply.status != 200:
        raise UpstreamError(f"{_shown(str(reply.url))} answers {reply.status}")
    body = bytearray()
    async for chunk in reply.content.iter_any():
        body += chunk
        if len(body) > MAX_KEY_SET_BYTES:
            raise UpstreamError(
                f"{_shown(str(reply.url))} sends more than {MAX_KEY_SET_BYTES} bytes"
            )
    return bytes(body)


def _shown(url: str) -> str:
    """Leave out what may be secret: user, password and query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a malformed URL"
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"[:200]


class KeyRing:
    """The keys of all sources a waypoint needs, kept fresh while `run` runs."""

    def __init__(self, fetcher: KeyFetcher, chance: random.Random) -> None:
        self._fetcher = fetcher
        self._chance = chance
        self._sources: dict[JwksLocation, _Kept] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self.on_removed: Callable[[], None] | None = None
        """Told when a key of a source is no longer published: what it signed is not good any
        more."""

    @asynccontextmanager
    async def run(self) -> AsyncIterator[KeyRing]:
        """Keep all sources fresh while the context is open."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                yield self
            finally:
                self._tasks = None
                self.want(())

    def want(self, locations: Iterable[JwksLocation]) -> None:
        """Set which sources are needed; others stop, those already known keep their keys."""
        wanted = frozenset(locations)
        for location in [item for item in self._sources if item not in wanted]:
            self._sources.pop(location).task.cancel()
        for location in wanted - self._sources.keys():
            if self._tasks is None:
                raise RuntimeError("the key ring does not run")
            source = JwksSource(location, asyncio.get_running_loop().time())
            kept = _Kept(source, self._fetcher, self._chance, self._removed)
            kept.task = self._tasks.create_task(kept.run())
            self._sources[location] = kept

    def _removed(self) -> None:
        if self.on_removed is not None:
            self.on_removed()

    def keys(self, rule: JwtRule) -> KeySet | None:
        """Return the keys of a rule; None while there are none."""
        kept = self._sources.get(location_of(rule))
        return kept.source.keys if kept is not None else None

    async def refresh(self, rules: Iterable[JwtRule]) -> bool:
        """Fetch keys that a token misses, where that is allowed now; say whether any were.

        Waits for fetches under way, never longer than their timeouts.
        """
        kept = [item for rule in rules if (item := self._sources.get(location_of(rule)))]
        waits = [item.refreshed() for item in kept if item.nudge()]
        if not waits:
            return False
        await asyncio.gather(*waits)
        return True

    def status(self) -> Mapping[JwksLocation, JwksStatus]:
        """Describe all sources."""
        now = asyncio.get_running_loop().time()
        return {location: kept.source.status(now) for location, kept in self._sources.items()}


class _Kept:
    """One source and the task that serves it."""

    task: asyncio.Task[None]

    def __init__(
        self,
        source: JwksSource,
        fetcher: KeyFetcher,
        chance: random.Random,
        removed: Callable[[], None],
    ) -> None:
        self.source = source
        self._removed = removed
        self._fetcher = fetcher
        self._chance = chance
        self._forced: Fetch | None = None
        self._woken = asyncio.Event()
        self._done = asyncio.Event()

    def nudge(self) -> bool:
        """Begin a forced fetch if the source allows one; say whether a fetch is under way."""
        if not self.source.is_fetching:
            now = asyncio.get_running_loop().time()
            self._forced = self.source.wants_refresh(now)
            if self._forced is None:
                return False
            self._done.clear()
            self._woken.set()
        return True

    async def refreshed(self) -> None:
        """Wait until the fetch under way has ended."""
        await self._done.wait()

    async def run(self) -> None:
        """Serve the source until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                fetch = self._forced or self.source.on_deadline(loop.time())
                self._forced = None
                if fetch is not None:
                    self._done.clear()
                while fetch is not None:
                    fetch = await self._do(fetch)
                self._done.set()
                await self._wait(self.source.next_deadline())
        finally:
            self._done.set()  # Nobody waits for a source that is gone.

    async def _do(self, fetch: Fetch) -> Fetch | None:
        loop, location = asyncio.get_running_loop(), self.source.location
        try:
            body = await self._fetcher.get(
                fetch.url, timeout_s=location.timeout_s, allow_http=location.allow_http
            )
        except UpstreamError as error:
            self.source.failed(fetch, str(error), loop.time(), self._chance.random())
            return None
        before = self.source.keys
        following = self.source.fetched(fetch, body, loop.time(), self._chance.random())
        now = self.source.keys
        if before is not None and now is not None and not now.keeps_all_of(before):
            self._removed()
        return following

    async def _wait(self, deadline: float | None) -> None:
        if self._forced is None:
            self._woken.clear()
        try:
            async with asyncio.timeout_at(deadline):
                await self._woken.wait()
        except TimeoutError:
            return
