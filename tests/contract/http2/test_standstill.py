"""Streams that stand still: what they hold, whom they stop, and what is not lost with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.errors import LocalProtocolError
from mesh.http2.contract import Drained, StreamEnded, StreamReset
from mesh.http2.nghttp2 import Nghttp2Session
from tests.contract.http2.conftest import Wire
from tests.contract.http2.pair import CLIENT, CONNECT, OK, SERVER, Pair, flow_bytes, payload

WINDOW = 65_535
SMALL = replace(SERVER, stream_window_bytes=WINDOW, connection_window_bytes=2 * WINDOW)
REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]


def test_a_request_is_stopped_after_the_whole_answer(wire: Wire) -> None:
    p = wire(client_side=replace(SMALL, client=True))
    stream = p.client.send_request(REQUEST)
    p.exchange()
    p.server.send_headers(stream, OK)
    p.server.send_data(stream, b"x" * 3 * WINDOW)
    p.server.send_headers(stream, [(b"grpc-status", b"0")], end_stream=True)
    p.server.stop(stream)
    p.exchange()
    body = payload(p.client_saw, stream)
    assert len(body) == WINDOW
    assert not any(isinstance(event, StreamEnded | StreamReset) for event in p.client_saw)
    p.client.consume(stream, flow_bytes(p.client_saw, stream))
    for _ in range(10):
        p.exchange()
        body += payload(p.client_saw, stream)
        p.client.consume(stream, flow_bytes(p.client_saw, stream))
        if StreamEnded(stream) in p.client_saw:
            break
    assert len(body) == 3 * WINDOW
    assert p.client_saw[-1] == StreamReset(stream, 0)
    assert p.server.open_streams == 0


def test_a_request_that_has_ended_is_not_stopped(wire: Wire) -> None:
    p = wire()
    stream = p.client.send_request(REQUEST, end_stream=True)
    p.exchange()
    p.server.send_headers(stream, OK)
    p.server.send_data(stream, b"ok", end_stream=True)
    p.server.stop(stream)
    p.exchange()
    assert p.client_saw[-1] == StreamEnded(stream)
    assert Drained(stream) in p.server_saw
    assert p.server.open_streams == p.client.open_streams == 0


def test_an_answer_without_a_body_is_stopped_at_once(wire: Wire) -> None:
    p = wire()
    stream = p.client.send_request(REQUEST)
    p.exchange()
    p.server.send_headers(stream, OK, end_stream=True)
    p.server.stop(stream)
    p.exchange()
    assert p.client_saw[-1] == StreamReset(stream, 0)
    assert p.server.open_streams == p.client.open_streams == 0


def native(ahead: int) -> Pair:
    settings = replace(SMALL, ahead_bytes=ahead)
    p = Pair(Nghttp2Session(CLIENT), Nghttp2Session(settings))
    return p.exchange()


def test_streams_that_stand_still_do_not_stop_others() -> None:
    p = native(20 * WINDOW)
    still = [p.open() for _ in range(20)]
    for stream in still:
        p.client.send_data(stream, b"x" * 2 * WINDOW)
        p.exchange()
        assert len(payload(p.server_saw, stream)) == WINDOW
    moving = p.open()
    for _ in range(50):
        p.client.send_data(moving, b"y" * 30_000)
        p.exchange()
        assert len(payload(p.server_saw, moving)) == 30_000
        p.server.consume(moving, 30_000)
    for stream in still:
        p.server.consume(stream, WINDOW)
    p.exchange()
    assert sum(len(payload(p.server_saw, stream)) for stream in still) == 20 * WINDOW


def test_what_all_streams_hold_has_an_end() -> None:
    p = native(4 * WINDOW)
    still = [p.open() for _ in range(12)]
    came = 0
    for stream in still:
        p.client.send_data(stream, b"x" * WINDOW)
        p.exchange()
        came += flow_bytes(p.server_saw, stream)
    assert 4 * WINDOW <= came <= 6 * WINDOW + 1
    for stream in still:
        p.server.consume(stream, WINDOW)
    p.exchange()
    rest = sum(flow_bytes(p.server_saw, stream) for stream in still)
    assert rest > 0
    while rest:
        came += rest
        for stream in still:
            p.server.consume(stream, len(payload(p.server_saw, stream)))
        p.exchange()
        rest = sum(flow_bytes(p.server_saw, stream) for stream in still)
    assert came == 12 * WINDOW


def test_credit_of_a_stream_that_is_gone_returns_to_the_connection() -> None:
    p = native(0)
    for _ in range(20):
        stream = p.open()
        p.client.send_data(stream, b"x" * WINDOW)
        p.exchange()
        assert len(payload(p.server_saw, stream)) == WINDOW
        p.client.reset(stream, 8)
        p.exchange()
        p.server.consume(stream, WINDOW)
        p.exchange()


def test_a_stream_whose_peer_takes_nothing_is_stuck() -> None:
    p = Pair(Nghttp2Session(replace(SMALL, client=True)), Nghttp2Session(SERVER))
    p.exchange()
    server = p.server
    assert isinstance(server, Nghttp2Session)
    idle, stuck = p.open(), p.open()
    server.send_data(idle, b"all of it")
    server.send_data(stuck, b"x" * 2 * WINDOW)
    p.exchange()
    assert server.stuck(0, 10) == []
    assert server.stuck(9, 10) == []
    p.client.consume(stuck, 40_000)
    p.exchange()
    assert server.stuck(12, 10) == []  # it moved
    assert server.stuck(21, 10) == []
    assert server.stuck(22, 10) == [stuck]
    server.reset(stuck, 8)
    assert server.stuck(50, 10) == []


def test_a_head_too_large_to_be_sent_leaves_the_session_whole() -> None:
    client = Nghttp2Session(CLIENT)
    for _ in range(3):
        with pytest.raises(LocalProtocolError, match="too large"):
            client.send_request([*REQUEST, (b"x", b"y" * 70_000)])
        assert client.open_streams == 0
    p = Pair(client, Nghttp2Session(SERVER)).exchange()
    assert p.server_saw != []
    stream = client.send_request(CONNECT)
    p.exchange()
    assert p.server.open_streams == 1
    assert stream == 7
