"""Server names out of real ClientHellos, whole, cut, split and mutated."""

from __future__ import annotations

import ssl
from random import Random

import pytest

from waypoint.downstream.client_hello import MAX_BYTES, server_name


def hello(name: str | None) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    link = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        link.do_handshake()
    return outgoing.read()


def in_records(data: bytes, size: int) -> bytes:
    """The same handshake message over records of a size."""
    body = data[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(data[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def test_the_name_is_found_however_the_bytes_come() -> None:
    data = hello("a.example.com")
    assert server_name(data) == "a.example.com"
    assert server_name(data + b"more") == "a.example.com"
    assert {server_name(data[:end]) for end in range(len(data))} == {None}
    assert server_name(in_records(data, 17)) == "a.example.com"


def test_no_name_and_no_tls_are_an_empty_name() -> None:
    assert server_name(hello(None)) == ""
    assert server_name(b"GET / HTTP/1.1\r\n") == ""
    assert server_name(b"\x16\x02\x00\x00\x05") == ""
    assert server_name(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00") == ""
    assert server_name(b"") is None


def test_a_hello_that_never_ends_is_given_up() -> None:
    endless = b"\x16\x03\x01\xff\xff\x01\xff\xff\xff" + bytes(MAX_BYTES)
    assert server_name(endless[: MAX_BYTES - 1]) is None
    assert server_name(endless[:MAX_BYTES]) == ""


def test_mutants_raise_nothing() -> None:
    random, data = Random(5), hello("a.example.com")
    for _ in range(3000):
        mutant = bytearray(data)
        for _ in range(random.randint(1, 4)):
            mutant[random.randrange(len(mutant))] = random.randrange(256)
        found = server_name(bytes(mutant))
        assert found is None or found.isascii()
