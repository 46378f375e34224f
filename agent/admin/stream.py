"""Live events over the admin socket, one JSON object per line until the reader goes away.

`tap` shows connections that ended or were refused; `monitor` what the kernel programs report. A
line `{"lost": N}` says that the reader was too slow for N events; `{"untold": N, "what": "a > b"}`
that N more connections of a kind were only counted, as there were too many to tell of each.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from agent.admin.view import FlowEvent
from mesh.errors import ConfigError
from mesh.model.connection import ConnectionRecord, ResponseFlag
from mesh.telemetry.access_log import FieldValue, record_fields
from mesh.telemetry.tap import Tap, Watcher
from mesh.telemetry.window_feed import workload_name

Event = TypeVar("Event")
BEAT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TapFilter:
    """Which connections somebody wants to see.

    Attributes:
        about: `<namespace>/<name>` of a workload or service at either end, or `<namespace>/`.
    """

    about: str = ""
    denied: bool = False

    def wants(self, record: ConnectionRecord) -> bool:
        """Whether to show a connection."""
        if self.denied and record.flag is not ResponseFlag.DENY:
            return False
        return not self.about or self._is_about(record)

    def _is_about(self, record: ConnectionRecord) -> bool:
        if self.about.endswith("/"):
            namespaces = {record.src.namespace, record.dst.namespace}
            namespaces.add(record.service.partition("/")[0])
            return self.about[:-1] in namespaces
        names = {record.service}
        for party in (record.src, record.dst):
            names |= {
                f"{party.namespace}/{party.name}",
                f"{party.namespace}/{workload_name(party)}",
            }
        return self.about in names


def parse_filter(query: Mapping[str, str]) -> TapFilter:
    """Read the query of a tap; raises `ConfigError`."""
    unknown = set(query) - {"about", "denied"}
    if unknown:
        raise ConfigError(f"unknown filter {', '.join(sorted(unknown))}")
    return TapFilter(about=query.get("about", ""), denied=query.get("denied") == "1")


async def stream_tap(
    request: web.Request, tap: Tap[ConnectionRecord], node: str
) -> web.StreamResponse:
    """Write connections as lines until the reader goes away."""

    def encode(record: ConnectionRecord) -> Mapping[str, object]:
        return {"kind": "connection", "origin": f"node/{node}", **_fields(record)}

    return await _stream(request, tap, parse_filter(request.query).wants, encode)


async def stream_monitor(request: web.Request, tap: Tap[FlowEvent]) -> web.StreamResponse:
    """Write kernel events as lines until the reader goes away."""
    refused = request.query.get("denied") == "1"

    def wanted(event: FlowEvent) -> bool:
        return not refused or event.verdict == "denied"

    def encode(event: FlowEvent) -> Mapping[str, object]:
        from agent.admin.codec import to_plain

        found = to_plain(event)
        assert isinstance(found, dict)
        return found

    return await _stream(request, tap, wanted, encode)


def _fields(record: ConnectionRecord) -> dict[str, FieldValue]:
    fields = record_fields(record)
    fields["ended_at"] = record.opened_at + record.duration_s
    fields["reporter"] = str(record.reporter)
    return fields


async def _stream(
    request: web.Request,
    tap: Tap[Event],
    wanted: Callable[[Event], bool],
    encode: Callable[[Event], Mapping[str, object]],
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    with tap.watch(wanted, closely=True) as watcher:
        if watcher is None:
            raise ConfigError("too many watch already: end another tap first")
        await response.prepare(request)
        try:
            while True:
                await response.write(await _lines(watcher, encode))
        except ConnectionResetError:  # the reader went away
            return response


async def _lines(watcher: Watcher[Event], encode: Callable[[Event], Mapping[str, object]]) -> bytes:
    """The next event; an empty line now and then, so that a reader that left is noticed."""
    try:
        async with asyncio.timeout(BEAT_S):
            event = await watcher.next()
    except TimeoutError:
        text = ""
    else:
        text = json.dumps(encode(event))
    lost = watcher.take_lost()
    head = [json.dumps({"lost": lost})] if lost else []
    more = watcher.take_omitted().items()
    head += [json.dumps({"untold": count, "what": what}) for what, count in more]
    return "".join(f"{line}\n" for line in (*head, text)).encode()
