"""What an external authorizer may say, checked so that it can go into a message. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mesh.http1.message import CONNECT, Headers, RequestHead
from mesh.jwt.extract import query_without
from waypoint.exchange.forward_headers import IDENTITY_FIELDS

MAX_FIELDS = 64
"""Of one answer; Envoy's limit of headers per message is 100."""
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]{1,256}")  # RFC 9110 §5.6.2, lower case
_VALUE = re.compile(rb"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]{0,8190}[\x21-\x7e\x80-\xff])?")
_PARAMETER = re.compile(r"[!-~]{0,2048}")
# What frames a message or belongs to a connection is never another party's to set.
_FRAMING = frozenset(
    (
        *(b"connection", b"content-length", b"host", b"keep-alive", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """The request may pass, changed like this.

    Attributes:
        set_headers: replace what the request has; added_headers: come on top.
        removed_headers: lower case.
        set_query, removed_query: parameters, as they travel.
        response_headers: replace what the response has.
    """

    set_headers: tuple[tuple[bytes, bytes], ...] = ()
    added_headers: tuple[tuple[bytes, bytes], ...] = ()
    removed_headers: frozenset[bytes] = frozenset()
    set_query: tuple[tuple[str, str], ...] = ()
    removed_query: frozenset[str] = frozenset()
    response_headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The client is answered like this."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """It could not be asked, or its answer makes no sense."""

    detail: str


Answer = Permit | Refusal | Failed


def usable_fields(fields: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """Keep the fields that may be set in a message, at most `MAX_FIELDS`."""
    kept = [
        (name, value)
        for name, value in fields
        if name not in _FRAMING
        and name not in IDENTITY_FIELDS
        and _NAME.fullmatch(name)
        and (not value or _VALUE.fullmatch(value))
    ]
    return tuple(kept[:MAX_FIELDS])


def usable_parameters(items: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Keep the parameters that can stand in a query as they are."""
    kept = [
        (name, value)
        for name, value in items
        if name and all(_PARAMETER.fullmatch(x) and not set(x) & set("#&") for x in (name, value))
    ]
    return tuple(kept[:MAX_FIELDS])


def apply_permit(head: RequestHead, permit: Permit) -> None:
    """Change a request as the authorizer wants it."""
    if permit.set_headers or permit.added_headers or permit.removed_headers:
        gone = permit.removed_headers - _FRAMING - IDENTITY_FIELDS
        gone |= {name for name, _ in permit.set_headers}
        kept = [item for item in head.headers if item[0] not in gone]
        head.headers = [*kept, *permit.set_headers, *permit.added_headers]
    if (permit.set_query or permit.removed_query) and head.upgrade != CONNECT:
        head.target = _edited_target(head.target, permit)


def _edited_target(target: bytes, permit: Permit) -> bytes:
    path, _, query = target.decode("latin-1").partition("?")
    gone = permit.removed_query | {name for name, _ in permit.set_query}
    parts = [query_without(query, gone), *(f"{n}={v}" for n, v in permit.set_query)]
    query = "&".join(part for part in parts if part)
    return (f"{path}?{query}" if query else path).encode("latin-1")


def with_response_headers(
    headers: Headers, added: Iterable[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """Set fields in a response."""
    own = list(added)
    names = {name for name, _ in own}
    return [*(item for item in headers if item[0] not in names), *own]
