"""List and watch of one kind: read everything, follow the changes, and begin anew when lost.

Order is kept and nothing is skipped: a watch goes on where the last event or bookmark was; where
the server no longer knows that position (410), everything is listed again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from mesh.model.snapshot import Problem, Severity
from mesh.sources.kubernetes.backoff import Backoff
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.items import Entry, HeadMetadata, ItemReader, read_head
from mesh.sources.kubernetes.resources import Resource, collection_path
from mesh.sources.kubernetes.share import Sharer
from mesh.sources.kubernetes.store import Change, KindStore, key_of
from mesh.sources.kubernetes.transport import KubeApi

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """How the API server is talked to.

    Attributes:
        page: objects in one answer; 500 is what kubectl asks for.
        watch_s: a watch is ended by the server after this to twice this, so that the watches of
            many nodes do not end together.
        idle_s: silence beyond the end of the watch after which the connection counts as lost.
        missing_s: how often a kind that does not exist is looked for, to twice this.
        complain_after: failures in a row that make a problem people see.
        stale_lists: lists in a row that are older than what is known, before one is believed:
            the cluster's database was restored from a backup.
    """

    page: int = 500
    watch_s: float = 240.0
    idle_s: float = 30.0
    missing_s: float = 30.0
    complain_after: int = 3
    stale_lists: int = 3
    first_backoff_s: float = 0.5


class _ListMetadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _ErrorObject(msgspec.Struct, frozen=True):
    code: int = 0
    reason: str = ""
    message: str = ""


_page_decoder = msgspec.json.Decoder(_Page)
_event_decoder = msgspec.json.Decoder(_Event)
_error_decoder = msgspec.json.Decoder(_ErrorObject)
_BOOKMARK, _ERROR = "BOOKMARK", "ERROR"
SHORT_WATCH_S = 1.0
"""A watch that ends sooner without an event is a failure: no tight loop around a sick proxy."""


class KindWatcher:
    """Keeps one `KindStore` like the API server.

    Args:
        on_change: called when the store differs from before.
        random: uniform in [0, 1).
        now: monotonic seconds.
    """

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        store: KindStore,
        *,
        settings: WatchSettings,
        node: str,
        sharer: Sharer,
        random: Callable[[], float],
        now: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        self._api = api
        self._resource = resource
        self._store = store
        self._settings = settings
        self._random = random
        self._now = now
        self._on_change = on_change
        self._backoff = Backoff(random, first_s=settings.first_backoff_s)
        self._readers = {
            version: ItemReader(resource, version, node=node, sharer=sharer)
            for version in resource.api_versions
        }
        self._api_version = resource.api_versions[0]
        self._position = ""
        """Where to go on watching; empty = list first."""
        self._stale_lists = 0
        self._page = settings.page
        self.heard_at = now()
        """When the server last said something of this kind, on the clock `now`."""

    async def run(self) -> None:
        """Keep the store until cancelled; failures are waited out."""
        while True:
            try:
                if not self._position:
                    await self._list()
                await self._watch()
            except KubeError as error:
                await asyncio.sleep(self._after(error))

    # -- list -----------------------------------------------------------------------------------

    async def _list(self) -> None:
        for number, version in enumerate(self._resource.api_versions):
            self._api_version = version
            try:
                await self._list_version()
            except KubeError as error:
                last = number + 1 == len(self._resource.api_versions)
                if not error.is_missing or last:
                    raise
            else:
                return

    async def _list_version(self) -> None:
        reader = self._readers[self._api_version]
        entries: dict[str, Entry] = {}
        version = ""
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                self.heard_at = self._now()
                # Every page tells the version of the first.
                version = version or page.metadata.resource_version
                for raw in page.items or ():
                    head = read_head(raw)
                    key = key_of(head)
                    before = self._store.entry(key)
                    if (
                        before is None
                        or before.version != head.resource_version
                        or not before.version
                    ):
                        before = reader.read(raw, head, before)
                    entries[key] = before
                # A long list must not keep everything else on this loop waiting.
                await asyncio.sleep(0)
        self._check_age(version)
        self._page = self._settings.page
        self._position = version
        if self._store.replace(entries, version):
            self._on_change()

    async def _pages(self) -> AsyncGenerator[_Page, None]:
        path = collection_path(self._api_version, self._resource.plural)
        query = {"limit": str(self._page)} if self._page else {}
        while True:
            # No resource version: the newest state, never that of a replica that lags behind.
            body = await self._api.request("GET", path, query=query)
            try:
                page = _page_decoder.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise KubeError(f"GET {path}: not a list of objects: {error}") from error
            yield page
            if not page.metadata.continue_:
                return
            query = {**query, "continue": page.metadata.continue_}

    def _check_age(self, version: str) -> None:
        if self._store.is_older(version) and self._stale_lists < self._settings.stale_lists:
            self._stale_lists += 1
            raise KubeError(f"{self._resource.name}: a list older than what is known; asking again")
        self._stale_lists = 0

    # -- watch ----------------------------------------------------------------------------------

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        begin, heard = loop.time(), False
        duration_s = self._settings.watch_s * (1.0 + self._random())
        path = collection_path(self._api_version, self._resource.plural)
        lines = self._api.lines(
            path, self._watch_query(duration_s), idle_s=duration_s + self._settings.idle_s
        )
        try:
            async with aclosing(lines):
                async for line in lines:
                    self.heard_at = self._now()
                    if not line:
                        self._be_well()
                        continue
                    self._take(line)
                    heard = True
            if not heard and loop.time() - begin < SHORT_WATCH_S:
                raise KubeError(f"GET {path}: the watch ended at once")
        finally:
            # A list alone proves nothing: a server may list, and refuse every watch.
            if heard or loop.time() - begin >= SHORT_WATCH_S:
                self._backoff.reset()

    def _watch_query(self, duration_s: float) -> Mapping[str, str]:
        return {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._position,
            "timeoutSeconds": str(max(1, round(duration_s))),
        }

    def _take(self, line: bytes) -> None:
        try:
            event = _event_decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise KubeError(f"watch of {self._resource.name}: no event: {error}") from error
        if event.type == _ERROR:
            raise _error_of(event.object, self._resource)
        head = _bookmark(event.object) if event.type == _BOOKMARK else read_head(event.object)
        if head.resource_version:
            self._position = head.resource_version
        if event.type in tuple(Change) and self._apply(Change(event.type), head, event.object):
            self._on_change()
        self._store.advance(head.resource_version)

    def _apply(self, change: Change, head: HeadMetadata, raw: msgspec.Raw) -> bool:
        """Apply an event. Says whether anything is different now."""
        if not self._store.is_news(change, head):
            return False
        key = key_of(head)
        if change is Change.DELETED:
            self._store.remove(key, head.resource_version)
            return True
        reader = self._readers[self._api_version]
        return self._store.put(key, reader.read(raw, head, self._store.entry(key)))

    # -- trouble --------------------------------------------------------------------------------

    def _be_well(self) -> None:
        """The server watches with us: what was wrong is over."""
        if self._store.trouble is not None:
            self._store.trouble = None
            self._on_change()

    def _after(self, error: KubeError) -> float:
        """Decide what a failure means, and how long to wait."""
        if error.is_position_lost:
            if not self._position:
                # The list took longer than the server remembers: without pages it cannot.
                self._page = 0
            self._position = ""
            log.info("%s: the position is lost, listing again", self._resource.name)
            return self._backoff.next_s(error.retry_after_s)
        if error.is_missing:
            self.heard_at = self._now()
            self._position = ""
            return self._be_missing()
        log.warning("%s: %s", self._resource.name, error)
        wait_s = self._backoff.next_s(error.retry_after_s)
        if self._backoff.failures >= self._settings.complain_after:
            self._complain(f"cannot be read ({error}); its last known state stays in force")
        return wait_s

    def _be_missing(self) -> float:
        resource, wait_s = self._resource, self._settings.missing_s * (1.0 + self._random())
        if not resource.supplier:
            self._complain(f"the API server has no {resource.name}: this is no Kubernetes we know")
            return wait_s
        if not self._store.is_empty:
            # Deleting a kind deletes its objects first, one by one. A kind that vanishes with
            # objects in it is a server that is starting: they stay in force.
            self._complain(f"{resource.name} vanished; its objects stay in force until it returns")
            return wait_s
        changed = self._store.declare_missing()
        if resource.is_missed:
            self._complain(f"{resource.name} is not installed: {resource.supplier}")
        if changed:
            self._on_change()
        return wait_s

    def _complain(self, message: str) -> None:
        where = f"kind {self._resource.name}"
        problem = Problem(
            where=where, subject=self._resource.kind, message=message, severity=Severity.WARNING
        )
        if problem != self._store.trouble:
            self._store.trouble = problem
            self._on_change()


class _Bookmark(msgspec.Struct, frozen=True):
    metadata: _ListMetadata


_bookmark_decoder = msgspec.json.Decoder(_Bookmark)


def _bookmark(raw: msgspec.Raw) -> HeadMetadata:
    """A bookmark's object has a version and no name."""
    try:
        version = _bookmark_decoder.decode(raw).metadata.resource_version
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KubeError(f"a bookmark of the API server cannot be read: {error}") from error
    return HeadMetadata(name="", resource_version=version)


def _error_of(raw: msgspec.Raw, resource: Resource) -> KubeError:
    try:
        status = _error_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        status = _ErrorObject(message="an error that cannot be read")
    return KubeError(
        f"watch of {resource.name}: {status.message}", status=status.code, reason=status.reason
    )
