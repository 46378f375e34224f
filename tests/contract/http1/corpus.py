# ruff: noqa: E501 - the tables read best in long lines
"""Requests on the edge of the grammar: sound seeds and what seeded mutation makes of them."""

from __future__ import annotations

import re
from random import Random

HOST = b"Host: web\r\n"
NEXT = b"GET /next HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
"""Follows every case: whoever ends the message elsewhere does not see this request."""

SEEDS = (
    b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /a?b=c&d=%20 HTTP/1.1\r\n" + HOST + b"Accept: */*\r\nX-Long: " + b"v" * 300 + b"\r\n\r\n",
    b"POST /l HTTP/1.1\r\n" + HOST + b"Content-Length: 11\r\n\r\nhello world",
    b"PUT /l0 HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    b"POST /c HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /ce HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    b'5;name=value;q="x"\r\nhello\r\n6 \r\n world\r\n000\r\n\r\n',
    b"POST /ct HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    b"A\r\n0123456789\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n",
    b"POST /big HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    b"1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0010\r\n0123456789abcdef\r\n0\r\n\r\n",
    b"POST /two HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc"
    b"POST /second HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nde",
    b"POST /inner HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 46\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: web\r\nX-Inner: \r\n\r\n"[:46],
    b"DELETE /d HTTP/1.1\r\n" + HOST + b"Connection: keep-alive\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET http://web/abs HTTP/1.1\r\n" + HOST + b"\r\n",
    b"HEAD /h HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /old HTTP/1.0\r\n" + HOST + b"\r\n",
)

_BYTES = (
    *(b"\r", b"\n", b"\r\n", b"\n\n", b"\0", b" ", b"\t", b"\x0b", b"\x0c", b"\x85", b"\xa0"),
    *(b":", b";", b",", b"+", b"-", b"0", b"x", b"\\", b'"', b"\x7f", b"_", b"\xff", b"\r\r\n"),
)
_LINES = (
    *(b"Content-Length: 3", b"Content-Length: 11", b"content-length:5", b"Content-Length: +3"),
    *(b"Content-Length: 3, 3", b"Content-Length: 0x3", b"Content-Length: 03", b"Content-Length:"),
    *(b"Content-Length: 3 ", b"Content-Length:\t3", b"Content-Length: -1", b"Content-Length: 3\x0b"),
    *(b"Content-Length : 3", b"Content_Length: 3", b"Content-Length\0: 3", b"Content-Length: 1e1"),
    *(b"Transfer-Encoding: chunked", b"transfer-encoding: Chunked", b"Transfer-Encoding:chunked"),
    *(b"Transfer-Encoding:\tchunked ", b"Transfer-Encoding : chunked", b"Transfer-Encoding: x"),
    *(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked, identity"),
    *(b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked,", b"Transfer-Encoding:"),
    *(b"Transfer-Encoding: chunked\x0b", b'Transfer-Encoding: "chunked"', b"Transfer_Encoding: chunked"),
    *(b"X-A: b\r\n Content-Length: 3", b"X-A: b\r\n\tTransfer-Encoding: chunked", b" X-A: b"),
    *(b"Transfer-Encoding:\r\n chunked", b"Connection: close", b"Connection: Content-Length"),
    *(b"Connection: Transfer-Encoding", b"Expect: 100-continue", b"TE: trailers", b"Host: other"),
    *(b"X-A: \xe9", b"X-A", b": x", b"X-A: b\nContent-Length: 3", b"X-A: b\rContent-Length: 3"),
)  # fmt: skip
_NUMBER = re.compile(rb"(?<=\r\n)[0-9A-Fa-f]+(?=[ ;\r])|(?<=Content-Length: )[0-9]+")
_NUMBERS = (
    *(b"0N", b"00000N", b"N ", b" N", b"N\t", b"N;", b"N;x", b"N ;x=y", b'N;x="y;z"', b"N;\xff"),
    *(b"+N", b"-N", b"0xN", b"N_", b"_N", b"N,N", b"N\x0b", b"N\0", b"N\r", b"N\n", b'N;x="\n"'),
    *(b"fffffffffffffffN", b"1000000000000000N", b"0000000000000000000N", b"N.0", b"NL", b"N e", b""),
    *(b"0", b"1", b"3", b"4", b"6", b"b", b"1A", b"1a", b"001a"),
)  # fmt: skip
_METHODS = (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS", b"QUERY", b"get")
_VERSIONS = (
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"http/1.1",
    b"HTTP/11",
)


def mutate(seed: bytes, random: Random) -> bytes:
    """One change or two."""
    data = seed
    for _ in range(random.choice((1, 1, 1, 2))):
        data = random.choice(_MUTATORS)(data, random)
    return data


def corpus(count: int, seed: int) -> list[bytes]:
    """The seeds, then as many mutants."""
    random = Random(seed)
    return [*SEEDS, *(mutate(random.choice(SEEDS), random) for _ in range(count))]


def _insert(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(_BYTES) + data[at:]


def _delete(data: bytes, random: Random) -> bytes:
    at = random.randrange(max(1, len(data)))
    return data[:at] + data[at + random.randint(1, 3) :]


def _replace(data: bytes, random: Random) -> bytes:
    at = random.randrange(max(1, len(data)))
    return data[:at] + random.choice(_BYTES) + data[at + 1 :]


def _add_line(data: bytes, random: Random) -> bytes:
    """A field, somewhere among the first request's lines."""
    head, end, rest = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    lines.insert(random.randint(1, len(lines)), random.choice(_LINES))
    return b"\r\n".join(lines) + end + rest


def _drop_line(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\r\n")
    del lines[random.randrange(len(lines))]
    return b"\r\n".join(lines)


def _repeat_line(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\r\n")
    at = random.randrange(len(lines))
    return b"\r\n".join((*lines[: at + 1], *lines[at:]))


def _swap_number(data: bytes, random: Random) -> bytes:
    """Write a chunk size or a length in another way, which may or may not mean the same."""
    found = [*_NUMBER.finditer(data)]
    if not found:
        return data
    match = random.choice(found)
    text = random.choice(_NUMBERS).replace(b"N", match[0])
    return data[: match.start()] + text + data[match.end() :]


def _swap_end(data: bytes, random: Random) -> bytes:
    """Another line ending in one place, or in all."""
    count = random.choice((1, 1, 2, -1))
    return data.replace(b"\r\n", random.choice((b"\n", b"\r", b"\r\r\n", b" \r\n")), count)


def _swap_first(data: bytes, random: Random) -> bytes:
    """Another method or version."""
    method, space, rest = data.partition(b" ")
    if random.random() < 0.5:
        return random.choice(_METHODS) + space + rest
    return method + space + rest.replace(b"HTTP/1.1", random.choice(_VERSIONS), 1)


_MUTATORS = (
    *(_insert, _delete, _replace, _add_line, _add_line, _drop_line, _repeat_line),
    *(_swap_number, _swap_number, _swap_number, _swap_end, _swap_first),
)
