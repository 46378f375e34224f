"""Hashes for choosing endpoints: the same in every process and on every machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

from mesh.model.traffic import HashKey, HashSource


def hash64(text: str, salt: str = "") -> int:
    """A 64-bit hash. BLAKE2b is in the standard library and cannot be steered cheaply."""
    data = text.encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(data, digest_size=8, salt=salt.encode()[:16]).digest(), "big")


def request_hash(
    keys: Sequence[HashKey],
    headers: Mapping[str, str],
    query: Mapping[str, str],
    source_ip: str,
) -> int | None:
    """Hash a request by the first keys that yield something; None where none does.

    All keys that yield a value join, in order, up to and with the first terminal one that does.
    """
    values: list[str] = []
    for key in keys:
        value = _value(key, headers, query, source_ip)
        if value is not None:
            values.append(f"{len(value)}:{value}")
            if key.terminal:
                break
    return hash64("".join(values)) if values else None


def _value(
    key: HashKey, headers: Mapping[str, str], query: Mapping[str, str], source_ip: str
) -> str | None:
    match key.source:
        case HashSource.HEADER:
            return headers.get(key.name)
        case HashSource.QUERY:
            return query.get(key.name)
        case HashSource.SOURCE_IP:
            return source_ip
        case HashSource.COOKIE:
            return read_cookie(headers.get("cookie", ""), key.name)


def read_cookie(header: str, name: str) -> str | None:
    """Read the first cookie of a name from a Cookie header (RFC 6265 §5.4)."""
    for part in header.split(";"):
        key, equals, value = part.partition("=")
        if equals and key.strip() == name:
            return value.strip().strip('"')
    return None
