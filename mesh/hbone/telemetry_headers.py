"""The optional headers of a CONNECT: `baggage`, `forwarded`, `traceparent`.

They label metrics and logs. A peer may write anything into them, so nothing is decided by them,
and a malformed one reads as empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_HEADER_VALUE_BYTES = 4096
"""Longer telemetry values are ignored: real ones stay below 1 KiB."""

_MAX_ITEM = 253  # the longest name Kubernetes has
_WORKLOAD_KEY = re.compile(r"k8s\.([a-z]{1,32})\.name")
_UNSAFE = re.compile(r"[^\x21-\x7e]|[,;\"\\]")
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
# RFC 7239 §4: token or quoted-string after `name=`.
_FORWARDED_PAIR = re.compile(r"\s*([A-Za-z]+)=(?:\"([^\"\\]*)\"|([^\s\";,]+))\s*")

# W3C baggage keys as Istio's ztunnel writes them; the workload's own key depends on its kind.
_KEYS = (
    ("k8s.cluster.name", "cluster"),
    ("k8s.namespace.name", "namespace"),
    ("service.name", "service"),
    ("service.version", "version"),
    ("cloud.region", "region"),
    ("cloud.availability_zone", "zone"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baggage:
    """What a side says about its workload. Empty means unknown."""

    cluster: str = ""
    namespace: str = ""
    workload_kind: str = ""
    workload: str = ""
    service: str = ""
    version: str = ""
    region: str = ""
    zone: str = ""


def format_baggage(baggage: Baggage) -> bytes:
    """The header's value; items that are empty or not representable are left out."""
    pairs = [(key, getattr(baggage, field)) for key, field in _KEYS]
    if baggage.workload_kind:
        pairs.insert(2, (f"k8s.{baggage.workload_kind}.name", baggage.workload))
    return ",".join(f"{key}={value}" for key, value in pairs if _is_plain(value)).encode("ascii")


def parse_baggage(value: bytes) -> Baggage:
    """Read the known keys (no percent-decoding, as the other implementations); skip the rest."""
    fields: dict[str, str] = {}
    names = dict(_KEYS)
    for item in _text(value).split(","):
        key, _, content = item.partition(";")[0].partition("=")
        key, content = key.strip(), content.strip()
        if not _is_plain(content):
            continue
        if key in names:
            fields.setdefault(names[key], content)
        elif match := _WORKLOAD_KEY.fullmatch(key):
            fields.setdefault("workload_kind", match[1])
            fields.setdefault("workload", content)
    return Baggage(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """RFC 7239, the two parameters HBONE uses.

    Attributes:
        source: `for=`, the client's address with port as text.
        host: `host=`, the service's name that the client dialled.
    """

    source: str = ""
    host: str = ""


def format_forwarded(forwarded: Forwarded) -> bytes:
    parts = []
    if _is_plain(forwarded.source):
        parts.append(f'for="{forwarded.source}"')
    if _is_plain(forwarded.host):
        parts.append(f"host={forwarded.host}")
    return ";".join(parts).encode("ascii")


def parse_forwarded(value: bytes) -> Forwarded:
    """Read the first element; anything malformed in it makes the whole header empty."""
    found: dict[str, str] = {}
    for part in _text(value).partition(",")[0].split(";"):
        match = _FORWARDED_PAIR.fullmatch(part)
        if match is None:
            return Forwarded()
        found.setdefault(match[1].lower(), match[2] or match[3] or "")
    source, host = found.get("for", ""), found.get("host", "")
    return Forwarded(
        source=source if _is_plain(source) else "", host=host if _is_plain(host) else ""
    )


def parse_traceparent(value: bytes) -> str:
    """A valid W3C traceparent of version 00, else an empty string (Trace Context §3.2)."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None or not match[1].strip(b"0") or not match[2].strip(b"0"):
        return ""
    return value.decode("ascii")


def _is_plain(value: str) -> bool:
    return 0 < len(value) <= _MAX_ITEM and _UNSAFE.search(value) is None


def _text(value: bytes) -> str:
    if len(value) > MAX_HEADER_VALUE_BYTES or not value.isascii():
        return ""
    return value.decode("ascii")
