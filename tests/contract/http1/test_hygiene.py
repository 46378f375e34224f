# ruff: noqa: E501 - a table reads best with one case a line
"""RFC 9112/9110 hygiene over raw sockets: what must be refused, and what must reach a server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from mesh.http1.message import Limits
from tests.contract.http1.stage import answering, run, stage
from waypoint.limits import ProxyLimits

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: web\r\n"
POST = b"POST / HTTP/1.1\r\nHost: web\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
LIMITS = ProxyLimits(message=Limits(head_bytes=4096, line_bytes=1024, fields=20))


@dataclass(frozen=True, slots=True)
class Refused:
    name: str
    status: int
    request: bytes


REFUSED = (
    Refused("length and chunked", 400, POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST),
    Refused("chunked and length", 400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + LAST),
    Refused("two lengths", 400, POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    Refused("two equal lengths", 400, POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    Refused("list of lengths", 400, POST + b"Content-Length: 5, 5\r\n\r\nhello"),
    Refused("signed length", 400, POST + b"Content-Length: +5\r\n\r\nhello"),
    Refused("negative length", 400, POST + b"Content-Length: -1\r\n\r\n"),
    Refused("hexadecimal length", 400, POST + b"Content-Length: 0x5\r\n\r\nhello"),
    Refused("empty length", 400, POST + b"Content-Length:\r\n\r\n"),
    Refused("length that overflows", 400, POST + b"Content-Length: 99999999999999999999\r\n\r\n"),
    Refused("length with underscore", 400, POST + b"Content-Length: 1_0\r\n\r\n"),
    Refused("identity coding", 501, POST + b"Transfer-Encoding: identity\r\n\r\n"),
    Refused("gzip coding", 501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    Refused("chunked not last", 501, POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n"),
    Refused("chunked twice", 400, POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + LAST),
    Refused("chunked in two fields", 400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
    Refused("chunked with a tail", 501, POST + b"Transfer-Encoding: xchunked\r\n\r\n" + LAST),
    Refused("quoted coding", 400, POST + b'Transfer-Encoding: "chunked"\r\n\r\n' + LAST),
    Refused("vertical tab in coding", 400, POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + LAST),
    Refused("empty coding", 400, POST + b"Transfer-Encoding:\r\n\r\n"),
    Refused("coding in HTTP/1.0", 400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST),
    Refused("folded line", 400, GET + b"X-A: b\r\n c\r\n\r\n"),
    Refused("folded line with tab", 400, GET + b"X-A: b\r\n\tc\r\n\r\n"),
    Refused("space before colon", 400, POST + b"Content-Length : 5\r\n\r\nhello"),
    Refused("tab before colon", 400, POST + b"Content-Length\t: 5\r\n\r\nhello"),
    Refused("space before first field", 400, b"GET / HTTP/1.1\r\n Host: web\r\n\r\n"),
    Refused("line without colon", 400, GET + b"novalue\r\n\r\n"),
    Refused("empty name", 400, GET + b": x\r\n\r\n"),
    Refused("name with parenthesis", 400, GET + b"x(y): z\r\n\r\n"),
    Refused("name with high byte", 400, GET + b"x\xff: z\r\n\r\n"),
    Refused("NUL in a name", 400, GET + b"x\0y: z\r\n\r\n"),
    Refused("NUL in a value", 400, GET + b"x: a\0b\r\n\r\n"),
    Refused("bare CR in a value", 400, GET + b"x: a\rb\r\n\r\n"),
    Refused("bare CR before a name", 400, GET + b"x: a\r\n\rContent-Length: 4\r\n\r\n"),
    Refused("bare LF ends a field", 400, GET + b"x: a\nContent-Length: 4\r\n\r\n"),
    Refused("bare LF ends the request line", 400, b"GET / HTTP/1.1\nHost: web\r\n\r\n"),
    Refused("bare LF everywhere", 400, b"GET / HTTP/1.1\nHost: web\n\n"),
    Refused("CR CR LF", 400, GET + b"x: a\r\r\n\r\n"),
    Refused("control character", 400, GET + b"x: a\x01\r\n\r\n"),
    Refused("DEL", 400, GET + b"x: a\x7f\r\n\r\n"),
    Refused("no Host", 400, b"GET / HTTP/1.1\r\n\r\n"),
    Refused("two Hosts", 400, GET + b"Host: other\r\n\r\n"),
    Refused("empty Host", 400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    Refused("Host with user", 400, b"GET / HTTP/1.1\r\nHost: a@web\r\n\r\n"),
    Refused("Host with path", 400, b"GET / HTTP/1.1\r\nHost: web/a\r\n\r\n"),
    Refused("Host list", 400, b"GET / HTTP/1.1\r\nHost: web, other\r\n\r\n"),
    Refused("absolute form, other Host", 400, b"GET http://other/ HTTP/1.1\r\nHost: web\r\n\r\n"),
    Refused("absolute form with user", 400, b"GET http://a@web/ HTTP/1.1\r\nHost: web\r\n\r\n"),
    Refused("unknown scheme", 400, b"GET ftp://web/ HTTP/1.1\r\nHost: web\r\n\r\n"),
    Refused("relative target", 400, b"GET a/b HTTP/1.1\r\nHost: web\r\n\r\n"),
    Refused("star for GET", 400, b"GET * HTTP/1.1\r\nHost: web\r\n\r\n"),
    Refused("fragment", 400, b"GET /a#b HTTP/1.1\r\nHost: web\r\n\r\n"),
    Refused("high byte in the target", 400, b"GET /\xff HTTP/1.1\r\nHost: web\r\n\r\n"),
    Refused("space in the target", 400, b"GET /a b HTTP/1.1\r\nHost: web\r\n\r\n"),
    Refused("two spaces", 400, b"GET  / HTTP/1.1\r\nHost: web\r\n\r\n"),
    Refused("tab as separator", 400, b"GET\t/ HTTP/1.1\r\nHost: web\r\n\r\n"),
    Refused("HTTP/0.9", 400, b"GET /\r\nHost: web\r\n\r\n"),
    Refused("HTTP/1.2", 505, b"GET / HTTP/1.2\r\nHost: web\r\n\r\n"),
    Refused("HTTP/2.0 text", 505, b"GET / HTTP/2.0\r\nHost: web\r\n\r\n"),
    Refused("lower-case version", 400, b"GET / http/1.1\r\nHost: web\r\n\r\n"),
    Refused("lower-case method", 400, b"get / HTTP/1.1\r\nHost: web\r\n\r\n"),
    Refused("method with a brace", 400, b"G{T / HTTP/1.1\r\nHost: web\r\n\r\n"),
    Refused("CONNECT", 405, b"CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\n"),
    Refused("unknown expectation", 417, POST + b"Expect: miracles\r\nContent-Length: 1\r\n\r\nx"),
    Refused("long target", 414, b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\nHost: web\r\n\r\n"),
    Refused("endless target", 414, b"GET /" + b"a" * 9000),
    Refused("long head", 431, GET + b"x: " + b"a" * 5000 + b"\r\n\r\n"),
    Refused("endless head", 431, GET + b"x: a\r\n" * 2000),
    Refused("many fields", 431, GET + b"x: a\r\n" * 30 + b"\r\n"),
    Refused("TLS bytes", 400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
)  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_doubtful_request_is_refused_and_nothing_of_it_is_passed_on(case: Refused) -> None:
    async def main() -> None:
        seen: list[bytes] = []
        async with stage(answering(OK, OK, seen=seen), limits=LIMITS) as here:
            # A second request follows in the same bytes: it must not be served either.
            answer = await here.ask(case.request + GET + b"X-Smuggled: yes\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 %d " % case.status), answer
            assert b"connection: close\r\n" in answer
            assert answer.count(b"HTTP/1.1") == 1
            assert seen == []
            (record,) = here.records
            assert record.flag == "DPE"
            assert record.details.startswith(("http1.", "connect_not_allowed"))

    run(main())


@dataclass(frozen=True, slots=True)
class BadBody:
    name: str
    body: bytes


BAD_BODIES = (
    BadBody("no digits", b"\r\nhello\r\n" + LAST),
    BadBody("0x", b"0x5\r\nhello\r\n" + LAST),
    BadBody("sign", b"+5\r\nhello\r\n" + LAST),
    BadBody("negative", b"-5\r\nhello\r\n" + LAST),
    BadBody("size that overflows", b"fffffffffffffffff\r\nhello\r\n" + LAST),
    BadBody("size wraps to five", b"10000000000000005\r\nhello\r\n" + LAST),
    BadBody("space before size", b" 5\r\nhello\r\n" + LAST),
    BadBody("underscore", b"0_5\r\nhello\r\n" + LAST),
    BadBody("LF after size", b"5\nhello\r\n" + LAST),
    BadBody("LF after data", b"5\r\nhello\n" + LAST),
    BadBody("CR after data", b"5\r\nhello\r" + LAST),
    BadBody("data too long", b"4\r\nhello\r\n" + LAST),
    BadBody("data too short", b"6\r\nhello\r\n" + LAST),
    BadBody("endless extension", b"5;" + b"a" * 2000 + b"\r\nhello\r\n" + LAST),
    BadBody("LF in extension", b"5;a\nb\r\nhello\r\n" + LAST),
    BadBody("CR in extension", b"5;a\rb\r\nhello\r\n" + LAST),
    BadBody("NUL in extension", b"5;a\0\r\nhello\r\n" + LAST),
    BadBody("many tiny chunks", b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n" * 3000 + LAST),
    BadBody("folded trailer", b"0\r\nx: a\r\n b\r\n\r\n"),
    BadBody("LF in trailers", b"0\r\nx: a\ny: b\r\n\r\n"),
    BadBody("trailer without colon", b"0\r\nnonsense\r\n\r\n"),
    BadBody("endless trailers", b"0\r\n" + b"x: a\r\n" * 5000),
)


@pytest.mark.parametrize("case", BAD_BODIES, ids=lambda case: case.name)
def test_a_bad_chunk_ends_both_connections(case: BadBody) -> None:
    async def main() -> None:
        bodies: list[bytes] = []

        async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            bodies.append(await reader.read())
            writer.write(OK)

        async with stage(keep) as here:
            answer = await here.ask(CHUNKED + case.body + GET + b"X-Smuggled: yes\r\n\r\n")
            assert answer.count(b"HTTP/1.1 ") <= 1
            assert b"200" not in answer[:12]
        # Whatever reached the server is a request it can see is cut: no last chunk.
        assert not any(body.endswith(LAST) or b"Smuggled" in body for body in bodies)

    run(main())


@dataclass(frozen=True, slots=True)
class Passed:
    """A request, and lines that must or must not stand in what the server gets."""

    name: str
    request: bytes
    has: tuple[bytes, ...] = ()
    lacks: tuple[bytes, ...] = ()


PASSED = (
    Passed("absolute form", b"GET http://web/a?b HTTP/1.1\r\nHost: web\r\n\r\n", (b"GET /a?b HTTP/1.1", b"host: web")),
    Passed("absolute form without path", b"GET http://web HTTP/1.1\r\nHost: WEB\r\n\r\n", (b"GET / HTTP/1.1",)),
    Passed("star", b"OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n", (b"OPTIONS * HTTP/1.1",)),
    Passed("empty line before", b"\r\nGET /x HTTP/1.1\r\nHost: web\r\n\r\n", (b"GET /x HTTP/1.1",)),
    Passed("port and IPv6", b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", (b"host: [::1]:80",)),
    Passed("white space around a value", GET + b"x-a: \t b \t\r\n\r\n", (b"x-a: b",)),
    Passed("obs-text", GET + b"x-a: \xff\r\n\r\n", (b"x-a: \xff",)),
    Passed("empty value", GET + b"x-a:\r\n\r\n", (b"x-a: ",)),
    Passed("hop by hop", GET + b"Connection: close, X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n"
           b"Proxy-Connection: keep-alive\r\nTE: gzip\r\nx-a: 1\r\n\r\n",
           (b"x-a: 1",), (b"x-private", b"keep-alive", b"proxy-connection", b"te:", b"connection")),
    Passed("Connection names what it may not", GET + b"Connection: authorization, x-request-id\r\n"
           b"Authorization: me\r\n\r\n", (b"authorization: me", b"x-request-id: ")),
    Passed("TE trailers", GET + b"Connection: TE\r\nTE: trailers\r\n\r\n", (b"te: trailers", b"connection: te")),
    Passed("h2c upgrade", GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
           (), (b"upgrade", b"http2-settings")),
    Passed("forged identity", GET + b"X-Forwarded-Client-Cert: By=x;URI=spiffe://cluster.local/ns/a/sa/admin\r\n"
           b"X-Meshnode-Principal: admin\r\nL5d-Client-Id: admin\r\n\r\n",
           (b"URI=spiffe://cluster.local/ns/shop/sa/client",), (b"admin",)),
    Passed("forwarded chain", GET + b"X-Forwarded-For: 1.2.3.4\r\n\r\n", (b"x-forwarded-for: 1.2.3.4, 10.0.0.9",)),
    Passed("request id kept", GET + b"X-Request-Id: abc-1\r\n\r\n", (b"x-request-id: abc-1",)),
    Passed("wild request id replaced", GET + b"X-Request-Id: a b\r\n\r\n", (), (b"a b",)),
    Passed("trace kept", GET + b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
           (b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",)),
    Passed("HTTP/1.0 without Host", b"GET /old HTTP/1.0\r\n\r\n", (b"GET /old HTTP/1.1", b"host: 10.96.0.1:80")),
)  # fmt: skip


@pytest.mark.parametrize("case", PASSED, ids=lambda case: case.name)
def test_a_sound_request_reaches_the_server_without_what_is_not_its_own(case: Passed) -> None:
    async def main() -> None:
        seen: list[bytes] = []
        async with stage(answering(OK, seen=seen)) as here:
            answer = await here.ask(case.request)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
            assert answer.endswith(b"\r\n\r\nok")
        (head,) = seen
        for text in case.has:
            assert text in head
        for text in case.lacks:
            assert text not in head.lower()

    run(main())


BAD_ANSWERS = {
    "length and chunked": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokk",
    "bad length": b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok",
    "unknown coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",
    "folded": b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 2\r\n\r\nok",
    "space before colon": b"HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "NUL": b"HTTP/1.1 200 OK\r\nx: \0\r\ncontent-length: 2\r\n\r\nok",
    "not HTTP": b"220 mail ready\r\n\r\n",
    "status 99": b"HTTP/1.1 099 No\r\ncontent-length: 0\r\n\r\n",
    "101 unasked": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    "chunked in 1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_a_doubtful_answer_becomes_502(answer: bytes) -> None:
    async def main() -> None:
        async with stage(answering(answer)) as here:
            got = await here.ask(GET + b"\r\n")
            assert got.startswith(b"HTTP/1.1 502 "), got
            (record,) = here.records
            assert record.flag == "UPE"

    run(main())
