"""What the lane takes, the Python codecs take alike, byte for byte; on a seeded corpus."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from random import Random

import pytest

from mesh.http1.head import RequestFacts, parse_request_head, parse_response_head
from mesh.http1.message import Limits
from mesh.http1.writer import format_request, format_response
from mesh.model.identity import SpiffeId
from mesh.telemetry.requests import BUCKETS_MS
from mesh.telemetry.trace_context import TraceStarter
from tests.contract.http1.corpus import corpus
from waypoint.exchange.forward_headers import caller_fields, prepare_request
from waypoint.lane.adopt import Adopted
from waypoint.lane.engine import Engine, Target
from waypoint.lane.record import Watch
from waypoint.limits import ProxyLimits

CALLER = SpiffeId(trust_domain="cluster.local", namespace="shop", service_account="client")
FIELDS = caller_fields(CALLER, CALLER, "10.0.0.9")
COUNT = 20_000
LINES = (
    *(b"Host: w.shop", b"Host: w:80", b"host: [::1]:80", b"Host: a@b", b"Content-Length: 5"),
    *(b"content-length: 05", b"Content-Length: +5", b"Transfer-Encoding: chunked", b"TE: trailers"),
    *(
        b"Connection: close",
        b"connection: Keep-Alive",
        b"Connection: x-a",
        b"X-A: b",
        b"x-b:\tc\t ",
    ),
    *(b"X-Forwarded-For: 1.2.3.4", b"x-forwarded-for:", b"X-Request-Id: abc", b"x-request-id: a b"),
    *(b"x-envoy-internal: true", b"L5d-Client-Id: z", b"Content-Type: application/grpc+proto"),
    *(b"Expect: 100-continue", b"Upgrade: websocket", b"Keep-Alive: 5", b"bad name: x", b": none"),
    *(
        b"traceparent: 00-1-2-01",
        b"X-B3-Sampled: 1",
        b"B3: 0",
        b"Accept: \xe9",
        b"a: \x00",
        b"b: \x7f",
    ),
    *(b"Cookie: a=b; c", b"noline", b"x: a\rb", b"x: a\nb", b" folded: y", b"Proxy-Connection: a"),
    *(b"x-forwarded-client-cert: By=x", b"Date: now", b"Server: s", b"Set-Cookie: a=1"),
)
TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
CONTEXTS = (
    *(
        b"traceparent: 00-%b-00f067aa0ba902b7-%b" % (TRACE, flags)
        for flags in (b"00", b"01", b"ff")
    ),
    *(b"TraceState: a=1", b"tracestate: b=2,c=3", b"tracestate:", b"b3: 0", b"X-B3-Sampled: 1"),
    b"traceparent: 00-%b-0000000000000000-01" % TRACE,
    b"traceparent: 01-%b-00f067aa0ba902b7-01-x" % TRACE,
    b"traceparent: 00-%b-00f067aa0ba902b7-01-x" % TRACE,
)
FIRST = (
    *(b"GET / HTTP/1.1", b"POST /a/b?c=d HTTP/1.1", b"HEAD /a%20 HTTP/1.1", b"get / HTTP/1.1"),
    *(b"GET http://w.shop/ HTTP/1.1", b"GET /a#b HTTP/1.1", b"GET  / HTTP/1.1", b"GET / HTTP/1.0"),
    *(b"OPTIONS * HTTP/1.1", b"CONNECT w:80 HTTP/1.1", b"GET /\xe9 HTTP/1.1", b"M-X / HTTP/1.1"),
)
STATUS = (
    *(b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 "),
    *(
        b"HTTP/1.1 200",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 101 Switch",
        b"HTTP/1.1 299 \xe9",
        b"HTTP/1.1 2000",
    ),
    *(b"HTTP/1.1  200 OK", b"HTTP/1.1 503 a\tb", b"HTTP/1.1 099 x", b"HTTP/2 200 OK"),
)


class _Nobody:
    """A host that is never asked."""

    def caller(self, number: int) -> object:
        raise AssertionError(number)

    def decide(self, number: int, request: bytes, sent: bytes) -> tuple[int, list[Target]] | None:
        raise AssertionError(number)

    def dial(self, number: int) -> None:
        raise AssertionError(number)

    def hand_over(self, number: int, sock: socket.socket, data: bytes) -> None:
        raise AssertionError(number)

    def adopt(self, number: int, entry: int, target: int, found: Adopted) -> None:
        raise AssertionError(number)

    def closed(self, number: int) -> None:
        raise AssertionError(number)

    def recorded(self) -> None:
        """Nothing is looked at."""

    def gone(self, entry: int) -> None:
        raise AssertionError(entry)


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(ProxyLimits(), _Nobody(), BUCKETS_MS)
    yield made
    made.close()


def heads(random: Random, first: tuple[bytes, ...], always: tuple[bytes, ...]) -> Iterator[bytes]:
    """Heads of likely and unlikely lines, every third with a byte changed."""
    for number in range(COUNT):
        lines = [random.choice(first), *always, *random.sample(LINES, random.randrange(6))]
        head = bytearray(b"\r\n".join(lines))
        if number % 3 == 0:
            head[random.randrange(len(head))] = random.randrange(256)
        yield bytes(head)


def python_request(head: bytes, sent: bytes, traces: TraceStarter | None = None) -> bytes:
    """What the codecs send; raises `MessageError`."""
    parsed = parse_request_head(head, Limits())
    seen = prepare_request(parsed, FIELDS, Random(1), traces)
    given = b"\r\nx-request-id: " + seen.request_id + b"\r\n" in sent
    identity = sent.partition(b"\r\nx-request-id: ")[2].partition(b"\r\n")[0]
    assert given or len(identity) == 36
    headers = [(n, identity if n == b"x-request-id" else v) for n, v in parsed.headers]
    if traces is not None:
        headers = [(n, like(v, sent) if n == b"traceparent" else v) for n, v in headers]
    parts = (parsed.method, parsed.target, parsed.host, headers, parsed.framing, parsed.length)
    unusual = (parsed.upgrade, parsed.expects_continue, parsed.takes_trailers, seen.is_grpc)
    assert not any(unusual)
    return format_request(*parts)


def test_requests_are_sent_as_python_sends_them(engine: Engine) -> None:
    random = Random(3)
    caller = engine.caller("c", FIELDS, (), False)
    taken = 0
    written = heads(random, FIRST, (b"Host: w.shop",))
    for data in (*(head + b"\r\n\r\n" for head in written), *corpus(COUNT // 4, 11)):
        sent = engine.render_request(caller, data)
        if sent:
            taken += 1
            assert sent == python_request(data.partition(b"\r\n\r\n")[0], sent), data
    assert taken > COUNT / 20


def like(context: bytes, sent: bytes) -> bytes:
    """The context that was sent, if only what is made up differs: our span, a new trace."""
    found = sent.partition(b"\r\ntraceparent: ")[2].partition(b"\r\n")[0]
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", found)
    assert found[-2:] == context[-2:]
    known = TRACE in context
    assert (TRACE in found) is known
    return found


@pytest.mark.parametrize(
    ("sampling", "exports"), [(None, False), (None, True), (0.0, True), (1.0, True), (1.0, False)]
)
def test_contexts_are_passed_on_as_python_does_it(
    engine: Engine, sampling: float | None, exports: bool
) -> None:
    random = Random(5)
    caller = engine.caller("c", FIELDS, (), False)
    engine.watcher.watch(Watch(traces=True, sampling=sampling, exports=exports))
    traces = TraceStarter(sampling, exports=exports, random=Random(6))
    taken = 0
    for number in range(3000):
        contexts = random.sample(CONTEXTS, random.choice((0, 1, 1, 2, 3)))
        lines = [b"GET /a HTTP/1.1", b"Host: w.shop", *random.sample(LINES, 2), *contexts]
        random.shuffle(lines[2:])
        head = bytearray(b"\r\n".join(lines))
        if number % 5 == 0:
            head[random.randrange(len(head))] = random.randrange(256)
        sent = engine.render_request(caller, bytes(head) + b"\r\n\r\n")
        if sent:
            taken += any(line in head for line in contexts)
            assert sent == python_request(bytes(head), sent, traces), head
    assert taken > 30


@pytest.mark.parametrize("is_head", [False, True])
def test_answers_are_sent_as_python_sends_them(engine: Engine, is_head: bool) -> None:
    random = Random(4)
    taken = 0
    for always in ((b"Content-Length: 7",), ()):
        for head in heads(random, STATUS, always):
            sent, length = engine.render_response(head + b"\r\n\r\n", is_head=is_head)
            if not sent:
                continue
            taken += 1
            parsed = parse_response_head(head, Limits(), RequestFacts(is_head))
            wanted = format_response(
                parsed.status, parsed.headers, parsed.framing, parsed.length, keep_alive=True
            )
            assert sent == wanted, head
            assert parsed.length in (None, length)
    assert taken > COUNT / 20


def test_plain_messages_are_plain(engine: Engine) -> None:
    """What the lane is for is not left to Python."""
    caller = engine.caller("c", FIELDS, (), False)
    get = b"GET /a?b=c HTTP/1.1\r\nHost: w\r\nAccept: */*\r\nCookie: a=b\r\n\r\n"
    post = b"POST /a HTTP/1.1\r\nHost: w:80\r\nContent-Length: 5\r\nContent-Type: a/b\r\n\r\nhello"
    assert engine.render_request(caller, get)
    assert engine.render_request(caller, post)
    answer = (
        b"HTTP/1.1 200 OK\r\nServer: s\r\nKeep-Alive: timeout=5\r\ncontent-length: 3\r\n\r\nabc"
    )
    assert engine.render_response(answer, is_head=False)[1] == 3
