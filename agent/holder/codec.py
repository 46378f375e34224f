"""The holder's packets as bytes: parse into, and format from, the values of `protocol`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from agent.holder.protocol import (
    MAX_VEND,
    Adopt,
    Answer,
    Become,
    Close,
    Event,
    EventKind,
    Family,
    ListenerName,
    Listeners,
    ListPods,
    Malformed,
    Open,
    Ping,
    PodRecord,
    Request,
    Role,
    SocketKind,
    Vend,
    Watch,
)
from mesh.errors import RemoteProtocolError

_UID = re.compile(r"[!-~]{1,253}")
_MAX_ID = 2**53

_E = TypeVar("_E", bound=Enum)


class _Fields:
    """Typed access to a JSON object. Every complaint names the field."""

    def __init__(self, raw: Mapping[str, object]) -> None:
        self._raw = raw

    def has(self, name: str) -> bool:
        return name in self._raw

    def text(self, name: str, default: str | None = None) -> str:
        value = self._raw.get(name, default)
        if not isinstance(value, str):
            raise RemoteProtocolError(f"field {name!r} must be a string")
        return value

    def number(self, name: str, low: int, high: int, default: int | None = None) -> int:
        value = self._raw.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise RemoteProtocolError(f"field {name!r} must be a number from {low} to {high}")
        return value

    def uid(self) -> str:
        value = self.text("uid")
        if not _UID.fullmatch(value):
            raise RemoteProtocolError("field 'uid' must be 1 to 253 printable characters")
        return value

    def items(self, name: str) -> list[object]:
        value = self._raw.get(name, [])
        if not isinstance(value, list):
            raise RemoteProtocolError(f"field {name!r} must be a list")
        return value

    def flag(self, name: str) -> bool:
        return self._raw.get(name) is True

    def child(self, raw: object) -> _Fields:
        if not isinstance(raw, dict):
            raise RemoteProtocolError("a list holds something that is not an object")
        return _Fields(raw)

    def listeners(self) -> tuple[ListenerName, ...]:
        try:
            names = tuple(ListenerName(str(name)) for name in self.items("listeners"))
        except ValueError as error:
            raise RemoteProtocolError(f"field 'listeners': {error}") from error
        if len(set(names)) != len(names):
            raise RemoteProtocolError("field 'listeners' names one twice")
        return names


def _parse_object(data: bytes) -> _Fields:
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("not a JSON object") from error
    if not isinstance(raw, dict):
        raise RemoteProtocolError("not a JSON object")
    return _Fields(raw)


def _parse_body(fields: _Fields) -> Request:
    match fields.text("op"):
        case "ping":
            return Ping()
        case "become":
            return Become(role=_member(Role, fields.text("role")))
        case "open":
            return Open(uid=fields.uid())
        case "adopt":
            return Adopt(uid=fields.uid(), listeners=fields.listeners())
        case "close":
            return Close(uid=fields.uid())
        case "list":
            return ListPods(after=fields.text("after", ""))
        case "listeners":
            return Listeners(uid=fields.uid())
        case "vend":
            return Vend(
                uid=fields.uid(),
                family=_member(Family, fields.number("family", 4, 6)),
                kind=_member(SocketKind, fields.text("kind")),
                count=fields.number("count", 1, MAX_VEND),
            )
        case "watch":
            return Watch()
        case unknown:
            raise RemoteProtocolError(f"unknown operation {unknown[:40]!r}")


def _member(kind: type[_E], value: str | int) -> _E:
    try:
        return kind(value)
    except ValueError as error:
        raise RemoteProtocolError(str(error)[:120]) from error


def parse_request(data: bytes) -> tuple[int, Request | Malformed]:
    """The request in a packet and its id, which is 0 if none could be read. Never raises."""
    request_id = 0
    try:
        fields = _parse_object(data)
        request_id = fields.number("id", 0, _MAX_ID)
        return request_id, _parse_body(fields)
    except RemoteProtocolError as error:
        return request_id, Malformed(complaint=str(error))


def format_request(request_id: int, request: Request) -> bytes:
    """One packet for `request`."""
    return json.dumps({"id": request_id, **_request_body(request)}).encode()


def _request_body(request: Request) -> dict[str, object]:
    match request:
        case Ping():
            return {"op": "ping"}
        case Become():
            return {"op": "become", "role": request.role}
        case Open():
            return {"op": "open", "uid": request.uid}
        case Adopt():
            return {"op": "adopt", "uid": request.uid, "listeners": request.listeners}
        case Close():
            return {"op": "close", "uid": request.uid}
        case ListPods():
            return {"op": "list", "after": request.after}
        case Listeners():
            return {"op": "listeners", "uid": request.uid}
        case Vend():
            return {
                "op": "vend",
                "uid": request.uid,
                "family": int(request.family),
                "kind": request.kind,
                "count": request.count,
            }
        case Watch():
            return {"op": "watch"}


def parse_reply(data: bytes) -> Answer | Event:
    """What the holder sent. Raises `RemoteProtocolError`."""
    fields = _parse_object(data)
    if fields.has("event"):
        kind = _member(EventKind, fields.text("event"))
        return Event(kind=kind, pod=None if kind is EventKind.SYNCED else _parse_pod(fields))
    return Answer(
        id=fields.number("id", 0, _MAX_ID),
        error=fields.text("error", ""),
        pods=tuple(_parse_pod(fields.child(pod)) for pod in fields.items("pods")),
        pid=fields.number("pid", 0, 2**31, default=0),
        version=fields.number("version", 0, 2**31, default=0),
        more=fields.flag("more"),
    )


def _parse_pod(fields: _Fields) -> PodRecord:
    return PodRecord(
        uid=fields.uid(),
        cookie=fields.number("cookie", 0, 2**64 - 1),
        listeners=fields.listeners(),
    )


def format_answer(answer: Answer) -> bytes:
    """One packet for `answer`: `ok` says whether the request was done, `error` why not."""
    body: dict[str, object] = {"id": answer.id, "ok": not answer.error}
    if answer.pid:
        body |= {"pid": answer.pid, "version": answer.version}
    if answer.error:
        body["error"] = answer.error[:1000]
    if answer.pods:
        body["pods"] = [_pod_body(pod) for pod in answer.pods]
    if answer.more:
        body["more"] = True
    return json.dumps(body).encode()


def format_event(event: Event) -> bytes:
    """One packet for `event`."""
    body: dict[str, object] = {"event": event.kind}
    return json.dumps(body | _pod_body(event.pod) if event.pod else body).encode()


def _pod_body(pod: PodRecord) -> dict[str, object]:
    return {"uid": pod.uid, "cookie": pod.cookie, "listeners": pod.listeners}
