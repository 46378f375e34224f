"""Which names and values a header field may have (RFC 9113 §8.2.1). libnghttp2 has the same rules.

A field that breaks them can smuggle a second field or request into HTTP/1.1 further on.
"""

from __future__ import annotations

import re

from mesh.errors import LocalProtocolError
from mesh.http2.contract import Headers

_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def find_bad_field(headers: Headers) -> bytes | None:
    """The name of the first field that breaks the rules."""
    for name, value in headers:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            return name
    return None


def check_fields(headers: Headers) -> None:
    """Raise `LocalProtocolError` for fields that must not be sent."""
    bad = find_bad_field(headers)
    if bad is not None:
        raise LocalProtocolError(f"HTTP/2: the header field {bad!r} cannot be sent")
