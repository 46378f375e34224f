"""Live requests for whoever watches; nothing is made while nobody does.

`GET /v1/tap` of the admin addresses streams one JSON object per line until the reader leaves. The
filters are query parameters, all of which must hold:

| parameter | requests |
|---|---|
| `about=NS/NAME` or `NS/` | of a workload or service at either end |
| `source=NS/NAME` or `NS/` | of this caller |
| `method=GET` | of this method |
| `path=/v1` | whose path begins so |
| `status=404` or `5xx` | answered so |
| `header=NAME` or `NAME:VALUE` | with this request header |
| `denied=1` | that policy refused |

A line has `kind: "request"`, `ended_at`, `src.*`, `dst.*`, `method`, `path` (without its query,
which may hold secrets), `status`, `flag`, `details`, `policy`, `duration_ms` and more; `headers`
are the request's as they went on, those that hold credentials without their values.
`{"lost": N}` says that N events found no room. An empty line comes every second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from mesh.errors import ConfigError
from mesh.http1.message import Headers
from mesh.model.connection import Party
from mesh.model.request import RequestRecord
from mesh.telemetry.hidden import SECRET_HEADERS

MAX_PENDING = 500
"""Events of one tap in one turn of a worker's report, 0.25 s."""
_MAX_VALUE = 1024
_SECRET = frozenset(name.encode() for name in SECRET_HEADERS)
_REDACTED = "[redacted]"

TapValue = str | int | float | dict[str, str]
TapEvent = dict[str, TapValue]


class TapFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests one reader wants to see; empty = any. Header names are lower case."""

    id: int
    about: str = ""
    source: str = ""
    method: str = ""
    path: str = ""
    status: str = ""
    header: str = ""
    value: str | None = None
    denied: bool = False


_PARAMETERS = frozenset(("about", "source", "method", "path", "status", "header", "denied"))


def parse_filter(number: int, query: Mapping[str, str]) -> TapFilter:
    """Read the query of a tap. Raises `ConfigError`."""
    unknown = set(query) - _PARAMETERS
    if unknown:
        raise ConfigError(f"unknown filter {', '.join(sorted(unknown))}")
    status = query.get("status", "")
    if status and not (len(status) == 3 and status[0].isdecimal() and _is_rest(status[1:])):
        raise ConfigError(f"status {status!r}: write a status such as 404, or 5xx")
    header, colon, value = query.get("header", "").partition(":")
    for name in ("about", "source"):
        if query.get(name) and "/" not in query[name]:
            raise ConfigError(f"{name} {query[name]!r}: write NAMESPACE/NAME or NAMESPACE/")
    return TapFilter(
        id=number,
        about=query.get("about", ""),
        source=query.get("source", ""),
        method=query.get("method", "").upper(),
        path=query.get("path", ""),
        status=status,
        header=header.strip().lower(),
        value=value.strip() if colon else None,
        denied=query.get("denied") == "1",
    )


def _is_rest(text: str) -> bool:
    return text == "xx" or text.isdecimal()


def wants(tap: TapFilter, record: RequestRecord, headers: Headers) -> bool:
    """Whether a reader wants to see a request."""
    if tap.denied and not _is_denied(record):
        return False
    if tap.method and tap.method != record.method:
        return False
    if tap.path and not record.path.startswith(tap.path):
        return False
    if tap.status and not _has_status(tap.status, record.status):
        return False
    if tap.source and not _names(tap.source, (record.src,), ""):
        return False
    if tap.about and not _names(tap.about, (record.src, record.dst), record.service):
        return False
    return not tap.header or _has_header(tap, headers)


def _is_denied(record: RequestRecord) -> bool:
    return bool(record.policy) or record.details.startswith("jwt_authn")


def _has_status(wanted: str, status: int) -> bool:
    text = str(status)
    return text[:1] == wanted[0] if wanted.endswith("xx") else text == wanted


def _names(wanted: str, parties: Iterable[Party], service: str) -> bool:
    namespace, _, name = wanted.partition("/")
    if not name:
        return service.startswith(wanted) or any(p.namespace == namespace for p in parties)
    return service == wanted or any(
        party.namespace == namespace and name in (party.name, party.app_name) for party in parties
    )


def _has_header(tap: TapFilter, headers: Headers) -> bool:
    name = tap.header.encode("latin-1", "replace")
    wanted = None if tap.value is None else tap.value.encode("latin-1", "replace")
    if name in _SECRET and wanted is not None:
        return False  # a filter must not become a way to guess
    return any(own == name and wanted in (None, value) for own, value in headers)


def tap_event(record: RequestRecord, headers: Headers) -> TapEvent:
    """One request as it is shown."""
    event: TapEvent = {
        "kind": "request",
        "ended_at": record.started_at + record.duration_s,
        "method": record.method,
        "path": record.path.partition("?")[0][:_MAX_VALUE],
        "authority": record.authority,
        "protocol": record.protocol,
        "status": record.status,
        "flag": str(record.flag),
        "details": record.details,
        "policy": record.policy,
        "route": record.route,
        "duration_ms": round(record.duration_s * 1000, 3),
        "bytes_received": record.bytes_received,
        "bytes_sent": record.bytes_sent,
        "attempts": record.tries,
        "request_id": record.request_id,
        "src.addr": str(record.client_addr),
        "dst.addr": str(record.upstream_addr or record.dialled_addr),
        "dst.service": record.service,
        "headers": _shown(headers),
    }
    for side, party in (("src", record.src), ("dst", record.dst)):
        event[f"{side}.workload"] = party.name
        event[f"{side}.namespace"] = party.namespace
        event[f"{side}.identity"] = f"spiffe://{party.identity}" if party.identity else ""
    if record.grpc_status != -1:
        event["grpc_status"] = record.grpc_status
    return {name: value for name, value in event.items() if value != ""}


def _shown(headers: Headers) -> dict[str, str]:
    shown: dict[str, str] = {}
    for name, value in headers:
        text = _REDACTED if name in _SECRET else value[:_MAX_VALUE].decode("latin-1")
        key = name.decode("latin-1")
        shown[key] = f"{shown[key]}, {text}" if key in shown else text
    return shown


class WorkerTaps:
    """The taps of one worker, and the events they caught since the last report."""

    def __init__(self) -> None:
        self._taps: tuple[TapFilter, ...] = ()
        self._caught: dict[int, list[TapEvent]] = {}
        self._lost: dict[int, int] = {}

    def replace(self, taps: Iterable[TapFilter]) -> bool:
        """Take the taps there are now; say whether there is any."""
        self._taps = tuple(taps)
        return bool(self._taps)

    def offer(self, record: RequestRecord, headers: Headers) -> None:
        """Show a request to every tap that wants it."""
        event: TapEvent | None = None
        for tap in self._taps:
            if not wants(tap, record, headers):
                continue
            caught = self._caught.setdefault(tap.id, [])
            if len(caught) >= MAX_PENDING:
                self._lost[tap.id] = self._lost.get(tap.id, 0) + 1
                continue
            event = event or tap_event(record, headers)
            caught.append(event)

    def lose(self, count: int) -> None:
        """Requests that some tap may have wanted had no room."""
        for tap in self._taps if count else ():
            self._lost[tap.id] = self._lost.get(tap.id, 0) + count

    def take(self) -> list[tuple[int, list[TapEvent], int]]:
        """Hand over tap, events and losses."""
        caught, self._caught = self._caught, {}
        lost, self._lost = self._lost, {}
        return [(tap, caught.get(tap, []), lost.get(tap, 0)) for tap in caught | lost]
