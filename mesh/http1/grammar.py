"""Field names, field values and targets (RFC 9110 §5, RFC 9112 §3)."""

from __future__ import annotations

import re
from functools import lru_cache

from mesh.http1.message import Headers, MessageError

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
TEXT = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
"""Bytes that may stand in a field line: no CR, LF, NUL or other control character."""

# reg-name, IPv4 or bracketed IPv6 with an optional port: nothing that another parser could read
# as user info, path or a second host (RFC 3986 §3.2.2, without percent-encoding).
_HOST = re.compile(rb"(?:[A-Za-z0-9_.~!$&'()*+;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_LENGTH = re.compile(rb"[0-9]{1,18}")


@lru_cache(maxsize=2048)
def field_name(name: bytes) -> bytes:
    """Lower-case a field name; raise `MessageError` if it is no token.

    White space before the colon and folded lines end here: neither is part of a token.
    """
    if not _TOKEN.fullmatch(name):
        raise MessageError(400, "http1.bad_field_name", f"field name {name[:64]!r} is no token")
    return name.lower()


def is_token(text: bytes) -> bool:
    """Say whether text is a token (RFC 9110 §5.6.2)."""
    return _TOKEN.fullmatch(text) is not None


def split_lines(block: bytes) -> list[bytes]:
    """Lines between CRLFs; raise `MessageError` for bare CR, bare LF, NUL and other controls."""
    lines = block.split(b"\r\n")
    if len(block.translate(None, TEXT)) != 2 * (len(lines) - 1):
        raise MessageError(400, "http1.bad_byte", "bare CR or LF, or a control character")
    return lines


def parse_fields(lines: list[bytes], max_fields: int) -> Headers:
    """Parse field lines; raise `MessageError`."""
    if len(lines) > max_fields:
        raise MessageError(431, "http1.too_many_fields", f"more than {max_fields} fields")
    fields: Headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise MessageError(400, "http1.bad_field", "a field line without a colon")
        fields.append((field_name(name), value.strip(b" \t")))
    return fields


@lru_cache(maxsize=1024)
def check_host(value: bytes) -> bytes:
    """Return a Host value or authority; raise `MessageError` for any form but `host[:port]`."""
    if not _HOST.fullmatch(value):
        raise MessageError(400, "http1.bad_host", f"Host {value[:64]!r} is not host[:port]")
    return value


def parse_length(values: list[bytes]) -> int:
    """Content-Length: one field of digits (RFC 9112 §6.3 lets us refuse repeated equal ones)."""
    if len(values) > 1:
        raise MessageError(400, "http1.many_lengths", "Content-Length stands more than once")
    if not _LENGTH.fullmatch(values[0]):
        raise MessageError(400, "http1.bad_length", f"Content-Length {values[0][:32]!r}")
    return int(values[0])


def list_items(value: bytes) -> list[bytes]:
    """Items of a comma-separated list in lower case, empty ones left out (RFC 9110 §5.6.1)."""
    if b"," not in value:
        item = value.strip(b" \t").lower()
        return [item] if item else []
    return [item for part in value.split(b",") if (item := part.strip(b" \t").lower())]
