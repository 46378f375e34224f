"""Which protocol a client speaks, from the service port's appProtocol or its first bytes. Pure.

A port that names its protocol is believed. HTTP clients speak first, so a port said to be HTTP
waits for them; a port that says nothing is asked briefly (a server-first protocol such as MySQL's
waits that long once, and never if its port is named `tcp`).
"""

from __future__ import annotations

import re
from enum import Enum, auto

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 §3.4
MAX_METHOD = 32
SNIFF_BYTES = 4096
_METHOD = re.compile(rb"[A-Z][A-Z-]{0,31}")


class Spoken(Enum):
    """What a connection turned out to be."""

    HTTP1 = auto()
    HTTP2 = auto()
    OPAQUE = auto()


class Known(Enum):
    """What appProtocol says (KEP-3726, Istio's names)."""

    HTTP = auto()
    HTTP2 = auto()
    OPAQUE = auto()
    NOTHING = auto()


_BY_NAME = {
    **dict.fromkeys(("http", "kubernetes.io/ws", "http1"), Known.HTTP),
    **dict.fromkeys(("grpc", "http2", "h2c", "kubernetes.io/h2c"), Known.HTTP2),
    **dict.fromkeys(
        ("tcp", "tls", "https", "kubernetes.io/wss", "mysql", "redis", "mongo", "postgres"),
        Known.OPAQUE,
    ),
}


def known_protocol(app_protocol: str) -> Known:
    """Read an appProtocol."""
    return _BY_NAME.get(app_protocol.lower(), Known.NOTHING)


def classify(data: bytes) -> Spoken | None:
    """Judge the first bytes; None: more are needed."""
    if data.startswith(PREFACE[: len(data)]):
        return Spoken.HTTP2 if len(data) >= len(PREFACE) else None
    if data.startswith(PREFACE):
        return Spoken.HTTP2
    method, space, _ = data.lstrip(b"\r\n").partition(b" ")
    if space:
        return Spoken.HTTP1 if _METHOD.fullmatch(method) else Spoken.OPAQUE
    if not method or (len(method) <= MAX_METHOD and _METHOD.fullmatch(method)):
        return None
    return Spoken.OPAQUE
