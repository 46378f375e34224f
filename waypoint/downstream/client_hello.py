"""The server name in the first bytes of a TLS connection (RFC 8446 §4.1.2, RFC 6066 §3). Pure.

Nothing is decrypted or checked beyond what leads to the name: the server behind does that.
"""

from __future__ import annotations

MAX_BYTES = 16 * 1024
"""A ClientHello with post-quantum keys has about 2 KiB."""

_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 22, 1, 0, 0
_RANDOM_END = 2 + 32


def server_name(data: bytes) -> str | None:
    """The name asked for; empty if none is, or if this is no TLS; None: more bytes are needed."""
    hello = _handshake(data)
    if hello is None:
        return None if len(data) < MAX_BYTES else ""
    try:
        return _name(hello)
    except (IndexError, UnicodeDecodeError):
        return ""


def _handshake(data: bytes) -> bytes | None:
    """The ClientHello's body, put together from records; empty if it is none, None if cut."""
    body = bytearray()
    at = 0
    while True:
        if data[at : at + 1] not in (b"", bytes((_HANDSHAKE,))):
            return b""
        if len(data) < at + 5:
            return None
        if data[at + 1] != 3:
            return b""
        end = at + 5 + int.from_bytes(data[at + 3 : at + 5], "big")
        body += data[at + 5 : end]
        if body and body[0] != _CLIENT_HELLO:
            return b""
        if len(body) >= 4:
            length = int.from_bytes(body[1:4], "big")
            if len(body) >= 4 + length:
                return bytes(body[4 : 4 + length])
        if len(data) < end:
            return None
        at = end


def _name(hello: bytes) -> str:
    """Skip version, random, session, ciphers and compression; look through the extensions."""
    at = _RANDOM_END
    at += 1 + hello[at]
    at += 2 + _number(hello, at)
    at += 1 + hello[at]
    end = min(len(hello), at + 2 + _number(hello, at))
    at += 2
    while at + 4 <= end:
        kind, length = _number(hello, at), _number(hello, at + 2)
        at += 4
        if kind == _SERVER_NAME and length >= 5 and hello[at + 2] == _HOST_NAME:
            size = _number(hello, at + 3)
            if size > length - 5 or at + 5 + size > end:
                return ""
            return hello[at + 5 : at + 5 + size].decode("ascii")
        at += length
    return ""


def _number(data: bytes, at: int) -> int:
    """Two bytes. Raises `IndexError` beyond the end."""
    return data[at] << 8 | data[at + 1]
