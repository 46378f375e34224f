"""What the lane carries is what the codecs and the exchange make of the same: bytes and counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import astuple, dataclass, replace

import pytest

from mesh.http2.contract import Headers
from mesh.model.request import RequestRecord
from mesh.telemetry.request_log import LogMode
from mesh.telemetry.requests import RequestTally
from tests.contract.http1.laned import USE_H2_LANE
from tests.contract.http1.stage import Stage, run, stage
from tests.contract.waypoint.h2_play import (
    CANCEL,
    INTERNAL,
    REFUSED,
    Answer,
    Message,
    Peer,
    Server,
    client,
    request,
)

BIG = 3 << 20
Play = Callable[[Peer], Awaitable[list[Message]]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that anybody could see."""

    client: list[tuple[object, ...]]
    server: list[tuple[object, ...]]
    counts: list[tuple[object, ...]]
    records: list[tuple[object, ...]]


def answer(status: int, *more: tuple[bytes, bytes], body: bytes = b"", end: bool = True) -> Answer:
    async def give(peer: Peer, stream: int) -> None:
        head = [(b":status", b"%d" % status), (b"x-server", b"a"), *more]
        peer.session.send_headers(stream, head, end_stream=end and not body)
        if body:
            peer.session.send_data(stream, body, end_stream=end)

    return give


def with_trailers(body: bytes, *trailers: tuple[bytes, bytes]) -> Answer:
    async def give(peer: Peer, stream: int) -> None:
        type_ = (b"content-type", b"application/grpc")
        peer.session.send_headers(stream, [(b":status", b"200"), type_])
        if body:
            peer.session.send_data(stream, body)
        peer.session.send_headers(stream, list(trailers), end_stream=True)

    return give


async def whole(peer: Peer, stream: int) -> None:
    """Wait for the end of a request, so that what was seen of it does not depend on chance."""
    await wait_for(lambda: peer.seen(stream).is_over or peer.is_closed)


async def echo(peer: Peer, stream: int) -> None:
    await whole(peer, stream)
    body = bytes(peer.seen(stream).body)
    peer.session.send_headers(stream, [(b":status", b"200")])
    peer.session.send_data(stream, body, end_stream=True)


async def early(peer: Peer, stream: int) -> None:
    """An answer before the request is complete."""
    await wait_for(lambda: len(peer.seen(stream).body) >= 100)
    peer.session.send_headers(stream, [(b":status", b"413")])
    peer.session.send_data(stream, b"too much", end_stream=True)


async def informed(peer: Peer, stream: int) -> None:
    peer.session.send_headers(stream, [(b":status", b"103"), (b"link", b"</a>")])
    peer.session.send_headers(stream, [(b":status", b"200")], end_stream=True)


async def cut(peer: Peer, stream: int) -> None:
    peer.session.send_headers(stream, [(b":status", b"200"), (b"content-length", b"10")])
    peer.session.send_data(stream, b"hello")
    await peer.flush()
    peer.session.reset(stream, INTERNAL)


def resets(code: int) -> Answer:
    async def give(peer: Peer, stream: int) -> None:
        await whole(peer, stream)
        peer.session.reset(stream, code)

    return give


async def closes(peer: Peer, stream: int) -> None:
    await whole(peer, stream)
    peer.writer.transport.abort()


async def says_goaway(peer: Peer, stream: int) -> None:
    peer.session.goaway(0, graceful=False)
    peer.session.send_headers(stream, [(b":status", b"200")], end_stream=True)


async def hangs(peer: Peer, stream: int) -> None:
    await wait_for(lambda: peer.seen(stream).reset is not None or peer.is_closed)


async def begins(peer: Peer, stream: int) -> None:
    peer.session.send_headers(stream, [(b":status", b"200")])
    peer.session.send_data(stream, b"first")


async def wait_for(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not done():  # noqa: ASYNC110 - whoever reads the connection makes it true
            await asyncio.sleep(0.005)


ANSWERS: dict[bytes, Answer] = {
    b"/ok": answer(200, (b"content-length", b"2"), body=b"ok"),
    b"/no-length": answer(200, body=b"x" * 70_000),
    b"/empty": answer(200),
    b"/204": answer(204),
    b"/304": answer(304, (b"etag", b'"a"'), (b"content-length", b"7")),
    b"/404": answer(404, (b"content-length", b"4"), body=b"none"),
    b"/500": answer(500),
    b"/cookies": answer(200, (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")),
    b"/grpc": with_trailers(b"\0\0\0\0\1x", (b"grpc-status", b"0"), (b"x-sum", b"1")),
    b"/grpc-bad": with_trailers(b"", (b"grpc-status", b"13"), (b"grpc-message", b"no")),
    b"/grpc-only": answer(200, (b"content-type", b"application/grpc"), (b"grpc-status", b"5")),
    b"/echo": echo,
    b"/early": early,
    b"/informed": informed,
    b"/cut": cut,
    b"/reset": resets(INTERNAL),
    b"/refused": resets(REFUSED),
    b"/close": closes,
    b"/goaway": says_goaway,
    b"/hang": hangs,
    b"/begin": begins,
    b"/big": answer(200, (b"content-length", b"%d" % BIG), body=b"b" * BIG),
}


async def send(peer: Peer, path: bytes, method: bytes = b"GET", more: Headers = ()) -> Message:
    stream = peer.session.send_request(request(path, method, more), end_stream=True)
    await peer.flush()
    return await peer.over(stream)


async def post(
    peer: Peer, path: bytes, body: bytes, more: Headers = (), trailers: Headers = ()
) -> Message:
    stream = peer.session.send_request(request(path, b"POST", more))
    if trailers:
        peer.session.send_data(stream, body)
        peer.session.send_headers(stream, trailers, end_stream=True)
    else:
        peer.session.send_data(stream, body, end_stream=True)
    await peer.flush()
    return await peer.over(stream)


def thrice(path: bytes, method: bytes = b"GET", *more: tuple[bytes, bytes]) -> Play:
    async def play(peer: Peer) -> list[Message]:
        return [await send(peer, path, method, more) for _ in range(3)]

    return play


def posts(path: bytes, body: bytes, *more: tuple[bytes, bytes]) -> Play:
    async def play(peer: Peer) -> list[Message]:
        return [await post(peer, path, body, more) for _ in range(3)]

    return play


async def amid(peer: Peer) -> list[Message]:
    """What ends a server's connection, each time on a new one that has answered before."""
    found = []
    for _ in range(2):
        found += [await send(peer, b"/ok"), await send(peer, b"/close", b"POST")]
    return found


async def goaways(peer: Peer) -> list[Message]:
    found = []
    for _ in range(3):
        found += [await send(peer, b"/ok"), await send(peer, b"/goaway")]
    return found


async def unfinished(peer: Peer) -> list[Message]:
    """Requests that are answered before they are complete."""
    found = []
    for _ in range(3):
        stream = peer.session.send_request(request(b"/early", b"POST"))
        peer.session.send_data(stream, b"x" * 100)
        await peer.flush()
        found.append(await peer.over(stream))
        await peer.until(lambda: peer.session.open_streams == 0)
    return found


async def cancels(peer: Peer) -> list[Message]:
    """Clients that leave before an answer, and within one."""
    found = []
    for path in (b"/hang", b"/begin") * 3:
        stream = peer.session.send_request(request(path), end_stream=True)
        await peer.flush()
        if path == b"/begin":
            await peer.until(lambda: bool(peer.seen(stream).body))  # noqa: B023 - read at once
        peer.session.reset(stream, CANCEL)
        await peer.flush()
        found += [peer.seen(stream), await send(peer, b"/ok")]
    return found


async def trailers_of_requests(peer: Peer) -> list[Message]:
    kept, claimed = (b"x-sum", b"4"), (b"x-forwarded-client-cert", b"URI=me")
    return [
        await post(peer, b"/echo", b"abcd", (), fields)
        for fields in ((kept,), (kept, claimed), (claimed,)) * 2
    ]


async def many_at_once(peer: Peer) -> list[Message]:
    await send(peer, b"/ok")
    streams = [
        peer.session.send_request(request(b"/ok" if n % 3 else b"/no-length"), end_stream=True)
        for n in range(60)
    ]
    await peer.flush()
    return [await peer.over(stream) for stream in streams]


FIELDS = (
    (b"user-agent", b"test/1"),
    (b"cookie", b"a=1"),
    (b"cookie", b"b=2"),
    (b"x-forwarded-for", b"192.0.2.7"),
    (b"x-forwarded-client-cert", b"URI=spiffe://evil"),
    (b"x_forwarded-client_cert", b"URI=spiffe://evil"),
    (b"x-request-id", b"fixed-1"),
    (b"te", b"trailers"),
    (b"x-key", b"v"),
)
GRPC = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
PLAYS: dict[str, Play] = {
    **{
        path.decode().strip("/"): thrice(path)
        for path in ANSWERS
        if path not in (b"/echo", b"/hang", b"/begin", b"/close", b"/goaway", b"/early")
    },
    "head": thrice(b"/ok", b"HEAD"),
    "fields": thrice(b"/ok", b"GET", *FIELDS),
    "trace": thrice(b"/ok", b"GET", (b"traceparent", b"00-%b-%b-00" % (b"1" * 32, b"2" * 16))),
    "host": thrice(b"/ok", b"GET", (b"host", b"web.shop")),
    "grpc": posts(b"/grpc", b"\0\0\0\0\1x", *GRPC),
    "grpc-bad": posts(b"/grpc-bad", b"\0\0\0\0\1x", *GRPC),
    "grpc-only": posts(b"/grpc-only", b"\0\0\0\0\1x", *GRPC),
    "grpc-refused": posts(b"/refused", b"\0\0\0\0\1x", *GRPC),
    "echo": posts(b"/echo", b"hello"),
    "echo-length": posts(b"/echo", b"hello", (b"content-length", b"5")),
    "echo-empty": posts(b"/echo", b""),
    "echo-big": posts(b"/echo", b"e" * BIG),
    "post-reset": posts(b"/reset", b"x" * 100),
    "post-reset-big": posts(b"/reset", b"x" * 200_000),
    "post-refused": posts(b"/refused", b"x" * 100),
    "amid": amid,
    "goaways": goaways,
    "unfinished": unfinished,
    "cancels": cancels,
    "request-trailers": trailers_of_requests,
    "many": many_at_once,
}  # fmt: skip


def shown(message: Message) -> tuple[object, ...]:
    """A message without what is different each time."""
    blocks = [
        [(n, b"*" if n == b"x-request-id" and len(v) == 36 else v) for n, v in block]
        for block in message.headers
    ]
    # A reset overtakes what still waits to be sent.
    body = b"" if message.reset else bytes(message.body)
    return (str(blocks), len(body), body[:20], message.ended, message.reset)


def counted(here: Stage) -> list[tuple[object, ...]]:
    """What the metrics would say, without times."""
    tally = RequestTally("test")
    for record in here.records:
        tally.record(record)
    if here.h2_lane is not None:
        for group in here.h2_lane.take():
            tally.add(group)
    return sorted(
        (labels, count, received, sent, tuple(buckets[1]), tuple(buckets[2]), str(edge))
        for labels, count, _, received, sent, buckets, edge, _, _ in tally.take()
    )


def told(here: Stage) -> list[tuple[object, ...]]:
    """The records, without times and texts."""
    return sorted(astuple(_without_chance(record)) for record in here.records)


def _without_chance(record: RequestRecord) -> RequestRecord:
    made = len(record.request_id) == 36
    return replace(
        record,
        started_at=0.0,
        duration_s=0.0,
        upstream_s=None,
        upstream_addr=None,
        details="",
        request_id="*" if made else record.request_id,
    )


def played(play: Play, *, lane: bool, least: int = 1, log: LogMode = LogMode.OFF) -> Outcome:
    """Run a play against the proxy with or without the lane."""
    outcomes: list[Outcome] = []

    async def main() -> None:
        server = Server(ANSWERS)
        async with stage(server, app_protocol="kubernetes.io/h2c") as here:
            if here.h2_lane is not None:
                here.h2_lane.watch(log, tapped=False)
            async with client(here.port_h2) as peer:
                saw = [shown(message) for message in await play(peer)]
            await wait_for(lambda: here.proxy.active == 0 and not under_way(here))
            if here.h2_lane is not None and least:
                assert here.h2_lane.taken >= least
            seen = sorted(shown(message) for message in server.seen)
            outcomes.append(Outcome(saw, seen, counted(here), told(here)))

    token = USE_H2_LANE.set(lane)
    try:
        run(main())
    finally:
        USE_H2_LANE.reset(token)
    return outcomes[0]


def under_way(here: Stage) -> int:
    lane = here.h2_lane
    return sum(lane.load(target) for target in lane.targets()) if lane is not None else 0


@pytest.mark.parametrize("name", PLAYS)
def test_the_lane_changes_nothing_that_can_be_seen(name: str) -> None:
    least = 0 if name in ("trace", "host") else 1
    with_lane = played(PLAYS[name], lane=True, least=least)
    without = played(PLAYS[name], lane=False)
    assert with_lane.client == without.client
    assert with_lane.server == without.server
    assert with_lane.counts == without.counts


@pytest.mark.parametrize("name", ["ok", "grpc-bad", "cut", "cancels", "fields", "echo", "500"])
def test_what_is_looked_at_is_told_as_without_the_lane(name: str) -> None:
    without = played(PLAYS[name], lane=False)
    everything = played(PLAYS[name], lane=True, log=LogMode.JSON)
    failures = played(PLAYS[name], lane=True, log=LogMode.ERRORS)
    assert everything.counts == failures.counts == without.counts
    assert everything.records == without.records
