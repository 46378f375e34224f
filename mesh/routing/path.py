"""Normalising a request's path and host once, before policy and routing.

What comes out is what policy judges, what routes match and what is forwarded: three readings of
one path are how policies get bypassed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mesh.errors import RemoteProtocolError
from mesh.model.snapshot import PathNormalization


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRules:
    """Settings. `reject_encoded_slashes` refuses %2F and %5C unless they are decoded."""

    normalization: PathNormalization = PathNormalization.BASE
    reject_encoded_slashes: bool = False


_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_ENCODED_SLASH = re.compile(r"%2[Ff]|%5[Cc]")
_SLASHES = re.compile(r"//+")
# No control characters, no space, nothing beyond ASCII; a fragment is never sent (RFC 9112 §3.2).
_VISIBLE = re.compile(r"[\x21\x22\x24-\x7e]*")
# The common case needs no work: no escape, no backslash, no dot segment, no double slash.
_PLAIN = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[-A-Za-z0-9._~!$&'()*+,;=:@]+)+/?|/")


def normalize_path(path: str, rules: PathRules) -> str:
    """Normalise a path without its query; raise `RemoteProtocolError` (answer 400).

    Refused under any settings: a path that does not start with `/` (but `*`), NUL, encoded or
    not, control characters and broken escapes.
    """
    if _PLAIN.fullmatch(path) or path == "*":
        return path
    if not path.startswith("/") or not _VISIBLE.fullmatch(path):
        raise RemoteProtocolError(f"{path[:80]!r} is not the path of a request")
    if "%" in path:
        path = _check_escapes(path, rules)
    if rules.normalization is PathNormalization.NONE:
        return path
    if "%" in path:
        path = _ESCAPE.sub(_decode_unreserved, path)
    path = remove_dot_segments(path.replace("\\", "/"))
    if rules.normalization is not PathNormalization.BASE:
        path = _SLASHES.sub("/", path)
    return path


def _check_escapes(path: str, rules: PathRules) -> str:
    for found in _ESCAPE.finditer(path):
        if found[1] is None:
            raise RemoteProtocolError("the path holds a '%' without two digits")
        if found[1] == "00":
            raise RemoteProtocolError("the path holds an encoded NUL")
    if rules.normalization is PathNormalization.DECODE_AND_MERGE_SLASHES:
        return _ENCODED_SLASH.sub("/", path)
    if rules.reject_encoded_slashes and _ENCODED_SLASH.search(path):
        raise RemoteProtocolError("the path holds an encoded slash")
    return path


def _decode_unreserved(found: re.Match[str]) -> str:
    """Decode once; what stays encoded is written in upper case (RFC 3986 §6.2.2.1)."""
    char = chr(int(found[1], 16))
    return char if char in _UNRESERVED else found[0].upper()


def remove_dot_segments(path: str) -> str:
    """Remove `.` and `..` segments (RFC 3986 §5.2.4); `..` above the root is dropped."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


_HOST = re.compile(r"(?:[A-Za-z0-9_](?:[-A-Za-z0-9_.]*[A-Za-z0-9_])?\.?|\[[0-9A-Fa-f:.]+\])")
_MAX_HOST = 253


def split_authority(authority: str) -> tuple[str, int | None]:
    """Split an authority into host, in lower case and without a final dot, and port.

    Raise `RemoteProtocolError` for user information, an empty host or anything else that is no
    `host[:port]` (answer 400).
    """
    bracketed = authority.startswith("[") and authority.endswith("]")
    host, colon, port = authority.rpartition(":") if not bracketed else (authority, "", "")
    if not colon:
        host = authority
    known = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536 and len(port) <= 5
    if (colon and not known) or len(host) > _MAX_HOST + 1 or not _HOST.fullmatch(host):
        raise RemoteProtocolError(f"{authority[:80]!r} is not a host with an optional port")
    return host.lower().removesuffix("."), int(port) if colon else None
