"""What every engine must do, against every engine, in both roles."""

from __future__ import annotations

import gc
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.errors import ConfigError, LocalProtocolError
from mesh.http2.contract import (
    DataReceived,
    Drained,
    HeadersReceived,
    PingAcknowledged,
    StreamEnded,
    StreamReset,
)
from mesh.http2.select import Engine, new_session
from tests.contract.http2.conftest import Wire
from tests.contract.http2.pair import (
    CANCEL,
    CLIENT,
    CONNECT,
    OK,
    SERVER,
    flow_bytes,
    heads,
    payload,
)

SMALL = 65_535


@pytest.mark.parametrize("piece", [1, 7, 1 << 30])
def test_connect_carries_bytes_both_ways_and_ends_half_by_half(wire: Wire, piece: int) -> None:
    p = wire(piece=piece)
    headers = [*CONNECT, (b"baggage", b"k8s.pod.name=a"), (b"forwarded", b'for="192.0.2.9:1"')]
    stream = p.client.send_request(headers)
    p.exchange()
    assert p.server_saw == [HeadersReceived(stream, headers, False)]

    p.server.send_headers(stream, [*OK, (b"baggage", b"b")])
    p.server.send_data(stream, b"hello")
    p.exchange()
    assert p.client_saw[0] == HeadersReceived(stream, [*OK, (b"baggage", b"b")], False)
    assert payload(p.client_saw, stream) == b"hello"
    assert p.server_saw == [Drained(stream)]

    p.client.send_data(stream, b"question", end_stream=True)
    p.exchange()
    assert payload(p.server_saw, stream) == b"question"
    assert p.server_saw[-1] == StreamEnded(stream)
    assert p.client_saw == [Drained(stream)]
    assert (p.client.open_streams, p.server.open_streams) == (1, 1)

    p.server.send_data(stream, b"answer")
    p.server.send_data(stream, b"", end_stream=True)
    p.exchange()
    assert payload(p.client_saw, stream) == b"answer"
    assert p.client_saw[-1] == StreamEnded(stream)
    assert (p.client.open_streams, p.server.open_streams) == (0, 0)


def test_the_server_may_end_first(wire: Wire) -> None:
    p = wire()
    stream = p.open()
    p.server.send_data(stream, b"bye", end_stream=True)
    p.exchange()
    assert p.client_saw[-1] == StreamEnded(stream)
    p.client.send_data(stream, b"late", end_stream=True)
    p.exchange()
    assert payload(p.server_saw, stream) == b"late"
    assert (p.client.open_streams, p.server.open_streams) == (0, 0)


def test_a_refusal_ends_the_stream_with_its_headers(wire: Wire) -> None:
    p = wire()
    stream = p.open(answer=False)
    p.server.send_headers(stream, [(b":status", b"401")], end_stream=True)
    p.exchange()
    assert p.client_saw == [
        HeadersReceived(stream, [(b":status", b"401")], True),
        StreamEnded(stream),
    ]
    p.client.reset(stream, CANCEL)
    p.exchange()
    assert p.server_saw == [StreamReset(stream, CANCEL)]
    assert (p.client.open_streams, p.server.open_streams) == (0, 0)


def test_a_plain_request_with_informational_response_and_trailers(wire: Wire) -> None:
    p = wire()
    request = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", b"a"),
        (b":path", b"/"),
        (b"te", b"trailers"),
    ]
    stream = p.client.send_request(request)
    p.client.send_data(stream, b"x" * 100)
    p.client.send_headers(stream, [(b"checksum", b"1")], end_stream=True)
    p.exchange()
    assert p.server_saw[0] == HeadersReceived(stream, request, False)
    assert p.server_saw[-2:] == [
        HeadersReceived(stream, [(b"checksum", b"1")], True),
        StreamEnded(stream),
    ]

    p.server.send_headers(stream, [(b":status", b"103")])
    p.server.send_headers(stream, OK)
    p.server.send_data(stream, b"y")
    p.server.send_headers(stream, [(b"grpc-status", b"0")], end_stream=True)
    p.exchange()
    assert p.client_saw[0] == HeadersReceived(stream, [(b":status", b"103")], False)
    assert p.client_saw[1] == HeadersReceived(stream, OK, False)
    assert payload(p.client_saw, stream) == b"y"
    assert p.client_saw[-2:] == [
        HeadersReceived(stream, [(b"grpc-status", b"0")], True),
        StreamEnded(stream),
    ]
    assert p.client.open_streams == p.server.open_streams == 0


def test_trailers_wait_for_data_that_waits_for_window(wire: Wire) -> None:
    p = wire(client_side=replace(CLIENT, stream_window_bytes=SMALL))
    stream = p.open()
    p.server.send_data(stream, b"z" * (SMALL + 10))
    p.server.send_headers(stream, [(b"grpc-status", b"0")], end_stream=True)
    p.exchange()
    assert len(payload(p.client_saw, stream)) == SMALL
    assert StreamEnded(stream) not in p.client_saw
    p.client.consume(stream, SMALL)
    p.exchange()
    assert len(payload(p.client_saw, stream)) == 10
    assert p.client_saw[-2:] == [
        HeadersReceived(stream, [(b"grpc-status", b"0")], True),
        StreamEnded(stream),
    ]
    assert p.server_saw == [Drained(stream)]


def test_a_full_window_holds_data_back_until_it_is_consumed(wire: Wire) -> None:
    p = wire(server_side=replace(SERVER, stream_window_bytes=SMALL))
    stream = p.open()
    p.client.send_data(stream, bytes(SMALL * 3))
    p.exchange()
    assert flow_bytes(p.server_saw, stream) == SMALL
    assert p.client.unsent_bytes(stream) == SMALL * 2
    assert p.client_saw == []
    p.exchange()
    assert p.server_saw == []

    p.server.consume(stream, SMALL)
    p.exchange()
    assert flow_bytes(p.server_saw, stream) == SMALL
    p.server.consume(stream, SMALL)
    p.exchange()
    assert p.client_saw == [Drained(stream)]
    assert p.client.unsent_bytes(stream) == 0


def test_the_connection_window_counts_all_streams(wire: Wire) -> None:
    side = replace(SERVER, stream_window_bytes=1 << 20, connection_window_bytes=1 << 20)
    p = wire(server_side=side)
    first, second = p.open(), p.open()
    p.client.send_data(first, bytes(1 << 20))
    p.exchange()
    p.client.send_data(second, b"stuck")
    p.exchange()
    assert p.server_saw == []
    p.server.consume(first, 1 << 20)
    p.exchange()
    assert payload(p.server_saw, second) == b"stuck"


def test_credit_of_a_stream_that_is_gone_is_given_back_to_the_connection(wire: Wire) -> None:
    side = replace(SERVER, stream_window_bytes=1 << 20, connection_window_bytes=1 << 20)
    p = wire(server_side=side)
    for _ in range(3):
        stream = p.open()
        p.client.send_data(stream, bytes(1 << 20))
        p.exchange()
        assert flow_bytes(p.server_saw, stream) == 1 << 20
        p.client.reset(stream, CANCEL)
        p.exchange()
        p.server.consume(stream, 1 << 20)
        p.exchange()
    assert p.server.open_streams == 0


def test_a_stuck_stream_blocks_no_other(wire: Wire) -> None:
    p = wire(server_side=replace(SERVER, stream_window_bytes=SMALL))
    stuck, free = p.open(), p.open()
    p.client.send_data(stuck, bytes(SMALL * 2))
    p.client.send_data(free, b"passes")
    p.exchange()
    assert payload(p.server_saw, free) == b"passes"
    p.client.send_data(free, b" again")
    p.exchange()
    assert payload(p.server_saw, free) == b" again"


def test_streams_share_the_output_fairly(wire: Wire) -> None:
    p = wire()
    streams = [p.open() for _ in range(4)]
    for stream in streams:
        p.client.send_data(stream, bytes(1 << 20))
    for _ in range(4):
        out, _ = p.client.take_output(1 << 18)
        p.server.receive(out)
    sent = [(1 << 20) - p.client.unsent_bytes(stream) for stream in streams]
    assert max(sent) - min(sent) <= 65_536
    assert min(sent) >= 1 << 17


def test_a_short_message_overtakes_a_long_one(wire: Wire) -> None:
    p = wire()
    long, short = p.open(), p.open()
    p.client.send_data(long, bytes(4 << 20))
    p.client.take_output(1 << 16)
    p.client.send_data(short, b"quick")
    out, events = p.client.take_output(1 << 18)
    assert Drained(short) in events
    assert Drained(long) not in events
    assert len(out) <= (1 << 18) + (1 << 16)


def test_take_output_keeps_to_its_limit(wire: Wire) -> None:
    p = wire()
    stream = p.open()
    p.client.send_data(stream, bytes(3 << 20))
    total = 0
    while p.client.wants_output:
        out, _ = p.client.take_output(1 << 16)
        assert 0 < len(out) <= (1 << 16) + 8192
        total += len(out)
        p.server.receive(out)
    assert total >= 3 << 20


def test_frames_are_as_large_as_the_peer_takes(wire: Wire) -> None:
    p = wire()
    stream = p.open()
    body = bytes(range(256)) * 4096 * 3
    p.client.send_data(stream, body)
    out, events = p.client.take_output(4 << 20)
    assert [length for length, *_ in heads(out)] == [1 << 20] * 3
    assert events == [Drained(stream)]
    assert payload(p.server.receive(out), stream) == body

    p = wire(server_side=replace(SERVER, max_frame_bytes=16_384))
    stream = p.open()
    p.client.send_data(stream, bytes(100_000))
    out, _ = p.client.take_output()
    assert max(length for length, *_ in heads(out)) == 16_384


def test_many_pieces_of_payload_arrive_in_order(wire: Wire) -> None:
    p = wire()
    stream = p.open()
    pieces = [bytes([n % 256]) * (n * 37 % 5000) for n in range(200)]
    for piece in pieces:
        p.client.send_data(stream, piece)
    p.client.send_data(stream, b"", end_stream=True)
    p.exchange()
    assert payload(p.server_saw, stream) == b"".join(pieces)


def test_ping_is_answered_and_told(wire: Wire) -> None:
    p = wire()
    p.client.ping(b"12345678")
    p.server.ping(b"abcdefgh")
    p.exchange()
    assert p.client_saw == [PingAcknowledged(b"12345678")]
    assert p.server_saw == [PingAcknowledged(b"abcdefgh")]
    with pytest.raises(LocalProtocolError):
        p.client.ping(b"short")


def test_memoryviews_are_taken(wire: Wire) -> None:
    p = wire()
    stream = p.client.send_request(CONNECT)
    p.client.send_data(stream, b"view")
    out, _ = p.client.take_output()
    events = p.server.receive(memoryview(bytearray(out)))
    assert DataReceived(stream, b"view", 4) in events
    assert p.server.receive(b"") == []


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        new_session(CLIENT, "nosuch")  # type: ignore[arg-type]


def test_sessions_give_their_memory_back(engine: Engine) -> None:
    """Ended in the middle of everything: open streams, queued payload, half a frame."""

    def one() -> None:
        client = new_session(CLIENT, engine)
        for _ in range(20):
            stream = client.send_request(CONNECT)
            client.send_data(stream, bytes(50_000))
        out, _ = client.take_output()
        new_session(SERVER, engine).receive(out[:-5])

    for _ in range(20):
        one()
    before = resident_bytes()
    for _ in range(60):
        one()
    # One round holds a megabyte of payload and 40 streams.
    assert resident_bytes() - before < 4 << 20


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
