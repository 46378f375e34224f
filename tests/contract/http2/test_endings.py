"""Resets, refusals and GOAWAY, settings and limits: against every engine, in both roles."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.errors import ConfigError, LocalProtocolError
from mesh.http2.contract import (
    GoawayReceived,
    HeadersReceived,
    SettingsReceived,
    StreamReset,
)
from mesh.http2.select import Engine, new_session
from tests.contract.http2.conftest import Wire
from tests.contract.http2.pair import (
    CANCEL,
    CLIENT,
    CONNECT,
    OK,
    REFUSED_STREAM,
    SERVER,
    Pair,
    payload,
)


def test_resets_travel_both_ways_and_are_told_once(wire: Wire) -> None:
    p = wire()
    stream = p.open()
    p.client.send_data(stream, bytes(8 << 20))
    p.client.reset(stream, CANCEL)
    p.client.reset(stream, CANCEL)
    p.exchange()
    assert p.server_saw == [StreamReset(stream, CANCEL, True)]
    assert p.client_saw == []
    assert p.client.unsent_bytes(stream) == 0

    stream = p.open()
    p.server.reset(stream, 2)
    p.exchange()
    assert p.client_saw == [StreamReset(stream, 2, True)]
    assert p.client.open_streams == p.server.open_streams == 0


def test_a_stream_that_is_gone_swallows_what_is_sent(wire: Wire) -> None:
    p = wire()
    stream = p.open()
    p.server.reset(stream, CANCEL)
    p.exchange()
    for side in (p.client, p.server):
        side.send_data(stream, b"late")
        side.send_headers(stream, [(b"x", b"y")], end_stream=True)
        side.consume(stream, 10)
        side.reset(stream, CANCEL)
        side.reset(12345, CANCEL)
        assert side.unsent_bytes(stream) == 0
    assert p.exchange().client_saw == []
    assert p.server_saw == []


def test_data_in_flight_after_our_reset_is_dropped_but_credited(wire: Wire) -> None:
    side = replace(SERVER, stream_window_bytes=1 << 20, connection_window_bytes=1 << 20)
    p = wire(server_side=side)
    stream = p.open()
    p.client.send_data(stream, bytes(1 << 20))
    out, _ = p.client.take_output(2 << 20)
    p.server.reset(stream, CANCEL)
    p.server_saw = p.server.receive(out)
    assert payload(p.server_saw, stream) == b""
    stream = p.open()
    p.client.send_data(stream, b"window is back" * 1000)
    p.exchange()
    assert len(payload(p.server_saw, stream)) == 14_000


def test_graceful_goaway_lets_new_and_old_streams_finish(wire: Wire) -> None:
    p = wire()
    old = p.open()
    late = p.client.send_request(CONNECT)  # in flight when the announcement is made
    p.server.goaway(graceful=True)
    p.exchange()
    assert GoawayReceived(0x7FFFFFFF, 0) in p.client_saw
    assert p.server_saw == [HeadersReceived(late, CONNECT, False)]
    with pytest.raises(LocalProtocolError):
        p.client.send_request(CONNECT)

    p.server.goaway()
    p.exchange()
    assert p.client_saw == [GoawayReceived(late, 0)]
    for stream in (old, late):
        if stream == late:
            p.server.send_headers(stream, OK)
        p.client.send_data(stream, b"still", end_stream=True)
        p.server.send_data(stream, b"works", end_stream=True)
        p.exchange()
        assert payload(p.server_saw, stream) == b"still"
        assert payload(p.client_saw, stream) == b"works"
    assert p.client.open_streams == p.server.open_streams == 0


def test_goaway_refuses_streams_that_were_not_taken(wire: Wire) -> None:
    p = wire()
    taken = p.open()
    late = p.client.send_request(CONNECT)
    p.server.goaway()
    p.exchange()
    assert p.client_saw == [GoawayReceived(taken, 0), StreamReset(late, REFUSED_STREAM)]
    assert p.server_saw == []
    assert p.client.open_streams == p.server.open_streams == 1
    p.client.send_data(taken, b"goes on")
    p.exchange()
    assert payload(p.server_saw, taken) == b"goes on"


def test_goaway_of_a_client(wire: Wire) -> None:
    p = wire()
    stream = p.open()
    p.client.goaway(graceful=True)
    p.exchange()
    assert p.server_saw == [GoawayReceived(0, 0)]
    p.server.send_data(stream, b"on")
    p.exchange()
    assert payload(p.client_saw, stream) == b"on"


def test_goaway_carries_its_code(wire: Wire) -> None:
    p = wire()
    p.open()
    p.server.goaway(2)
    assert p.exchange().client_saw == [GoawayReceived(1, 2)]


def test_the_peers_limit_of_streams_is_kept(wire: Wire) -> None:
    p = wire(server_side=replace(SERVER, max_concurrent_streams=3))
    assert p.client.remote_max_streams == 3
    assert p.server.remote_max_streams == 200
    streams = [p.open() for _ in range(3)]
    with pytest.raises(LocalProtocolError):
        p.client.send_request(CONNECT)
    assert p.client.open_streams == 3
    p.client.reset(streams[0], CANCEL)
    p.exchange()
    assert p.open() > streams[-1]


def test_streams_stay_under_the_limit_for_ever(wire: Wire) -> None:
    p = wire(server_side=replace(SERVER, max_concurrent_streams=1))
    for _ in range(1000):
        stream = p.client.send_request(CONNECT)
        p.client.send_data(stream, b"", end_stream=True)
        p.exchange()
        p.server.send_headers(stream, [(b":status", b"503")], end_stream=True)
        p.exchange()
    assert p.client.open_streams == p.server.open_streams == 0


def test_settings_are_told_on_both_sides(client_engine: Engine, server_engine: Engine) -> None:
    p = Pair(new_session(CLIENT, client_engine), new_session(SERVER, server_engine))
    assert p.client.remote_max_streams == 0x7FFFFFFF
    p.exchange()
    assert p.client_saw == [SettingsReceived()]
    assert p.server_saw == [SettingsReceived()]


def test_a_request_may_precede_the_peers_settings(
    client_engine: Engine, server_engine: Engine
) -> None:
    p = Pair(new_session(CLIENT, client_engine), new_session(SERVER, server_engine))
    stream = p.client.send_request(CONNECT)
    p.client.send_data(stream, bytes(1 << 20))
    p.exchange()
    assert HeadersReceived(stream, CONNECT, False) in p.server_saw
    assert len(payload(p.server_saw, stream)) == 1 << 20


@pytest.mark.parametrize(
    "header",
    [
        (b"a\0b", b"c"),
        (b"name", b"va\0lue"),
        (b"name", b"split\r\nx: y"),
        (b"na me", b"v"),
        (b"", b"v"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused(
    engine: Engine, header: tuple[bytes, bytes]
) -> None:
    client = new_session(CLIENT, engine)
    with pytest.raises(LocalProtocolError):
        client.send_request([*CONNECT, header])
    assert client.open_streams == 0
    assert client.send_request(CONNECT) == 1


def test_steps_out_of_order_are_refused(wire: Wire) -> None:
    p = wire()
    stream = p.open(answer=False)
    with pytest.raises(LocalProtocolError):
        p.server.send_data(stream, b"before the response")
    p.server.send_headers(stream, OK)
    with pytest.raises(LocalProtocolError):
        p.server.send_headers(stream, [(b"a", b"trailers that do not end")])
    p.server.send_data(stream, b"", end_stream=True)
    with pytest.raises(LocalProtocolError):
        p.server.send_data(stream, b"after the end")
    with pytest.raises(LocalProtocolError):
        p.server.send_headers(stream, [(b"a", b"b")], end_stream=True)


def test_settings_outside_of_the_protocol_are_refused(engine: Engine) -> None:
    with pytest.raises(ConfigError):
        new_session(replace(CLIENT, max_frame_bytes=100), engine)
