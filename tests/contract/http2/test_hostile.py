"""Peers that break the rules, as raw frames. A fault may cost its stream or the connection, but
never more, and what we hold for the peer stays bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from mesh.errors import RemoteProtocolError
from mesh.http2.contract import Event, HeadersReceived, StreamReset
from mesh.http2.select import Engine, new_session
from tests.contract.http2.frames import (
    FLOW_CONTROL_ERROR,
    GET,
    NO_ERROR,
    PROTOCOL_ERROR,
    Fields,
    ack,
    feed,
    goaway_code,
    headers,
    refused,
    server,
)
from tests.contract.http2.pair import CLIENT, CONNECT, OK, SERVER, payload

FATAL: dict[str, bytes] = {
    "data on an idle stream": DataFrame(1, b"x").serialize(),
    "data on stream zero": b"\0\0\1\0\0\0\0\0\0x",
    "headers on stream zero": b"\0\0\1\1\4\0\0\0\0\x82",
    "even stream": headers(2, CONNECT),
    "stream id goes down": headers(5, CONNECT) + headers(3, CONNECT),
    "window update on an idle stream": WindowUpdateFrame(7, 1).serialize(),
    "connection window overflows": WindowUpdateFrame(0, 0x7FFFFFFF).serialize() * 2,
    "empty window update": b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",
    "reset of an idle stream": RstStreamFrame(9, 0).serialize(),
    "reset on stream zero": b"\0\0\4\3\0\0\0\0\0\0\0\0\0",
    "ping of seven bytes": b"\0\0\7\6\0\0\0\0\0" + bytes(7),
    "ping on a stream": b"\0\0\x08\6\0\0\0\0\1" + bytes(8),
    "settings of five bytes": b"\0\0\5\4\0\0\0\0\0" + bytes(5),
    "settings on a stream": b"\0\0\0\4\0\0\0\0\1",
    "settings ack with payload": b"\0\0\6\4\1\0\0\0\0" + bytes(6),
    "settings window too large": SettingsFrame(0, {4: 0x80000000}).serialize(),
    "settings frame too small": SettingsFrame(0, {5: 100}).serialize(),
    "settings push is no boolean": SettingsFrame(0, {2: 2}).serialize(),
    "naked continuation": ContinuationFrame(1, b"").serialize(),
    "frame inside a header block": HeadersFrame(1, b"\x82").serialize()
    + PingFrame(0, bytes(8)).serialize(),
    "goaway inside a header block": HeadersFrame(1, b"\x82").serialize()
    + b"\0\0\x08\7\0\0\0\0\0"
    + bytes(8),
    "continuation of another stream": HeadersFrame(1, b"\x82").serialize()
    + ContinuationFrame(3, b"").serialize(),
    "hpack garbage": HeadersFrame(
        1, b"\xff\xff\xff\xff\xff\xff", flags=["END_HEADERS"]
    ).serialize(),
    "padding longer than the frame": b"\0\0\1\0\x08\0\0\0\1\xff",
    "push promise from a client": b"\0\0\4\5\4\0\0\0\1\0\0\0\2",
    "goaway too short": b"\0\0\4\7\0\0\0\0\0" + bytes(4),
    "frame above the maximum": b"\x10\0\1\0\0\0\0\0\1",
}


@pytest.mark.parametrize("fault", FATAL)
def test_a_connection_error_leaves_a_goaway(engine: Engine, fault: str) -> None:
    session = server(engine)
    with pytest.raises(RemoteProtocolError):
        session.receive(FATAL[fault] + PingFrame(0, bytes(8)).serialize() + bytes(64))
    assert goaway_code(session) != NO_ERROR
    assert not session.wants_output
    assert session.take_output() == (b"", [])
    with pytest.raises(RemoteProtocolError):
        session.receive(PingFrame(0, bytes(8)).serialize())


@pytest.mark.parametrize("fault", ["connection window overflows", "hpack garbage", "even stream"])
def test_a_dead_session_takes_calls_and_does_nothing(engine: Engine, fault: str) -> None:
    session = server(engine)
    session.receive(headers(1, CONNECT))
    with pytest.raises(RemoteProtocolError):
        session.receive(FATAL[fault])
    session.take_output()
    session.send_headers(1, OK)
    session.send_data(1, b"x" * 5000, end_stream=True)
    session.consume(1, 1)
    session.reset(1, 8)
    session.ping(bytes(8))
    session.goaway()
    assert session.unsent_bytes(1) == 0
    assert session.take_output() == (b"", [])


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nXX",
        bytes(24),
    ],
)
@pytest.mark.parametrize("piece", [1, 100])
def test_what_is_not_http2_is_refused_at_its_first_bytes(
    engine: Engine, first: bytes, piece: int
) -> None:
    session = new_session(SERVER, engine)
    pieces = [first[at : at + piece] for at in range(0, len(first), piece)]
    assert feed(session, pieces) < len(pieces)
    assert goaway_code(session) == PROTOCOL_ERROR


BAD_REQUESTS: dict[str, Fields] = {
    "no method": [(b":authority", b"a")],
    "connect without authority": [(b":method", b"CONNECT")],
    "connect with path": [*CONNECT, (b":path", b"/")],
    "connect with scheme": [*CONNECT, (b":scheme", b"http")],
    "get without path": GET[:3],
    "two methods": [(b":method", b"GET"), *GET],
    "unknown pseudo header": [*CONNECT, (b":colour", b"red")],
    "response pseudo header": [*CONNECT, (b":status", b"200")],
    "pseudo header after a field": [
        (b":method", b"CONNECT"),
        (b"a", b"b"),
        (b":authority", b"a:1"),
    ],
    "upper case": [*GET, (b"Name", b"v")],
    "space in a name": [*GET, (b"na me", b"v")],
    "empty name": [*GET, (b"", b"v")],
    "line break in a value": [*GET, (b"name", b"v\r\nx: y")],
    "nul in a value": [*GET, (b"name", b"v\0")],
    "nul in a name": [*GET, (b"na\0me", b"v")],
    "connection": [*GET, (b"connection", b"close")],
    "transfer-encoding": [*GET, (b"transfer-encoding", b"chunked")],
    "upgrade": [*GET, (b"upgrade", b"websocket")],
    "te": [*GET, (b"te", b"gzip")],
    "two content lengths": [*GET, (b"content-length", b"1"), (b"content-length", b"2")],
}


@pytest.mark.parametrize("fault", BAD_REQUESTS)
def test_a_malformed_request_is_never_announced(engine: Engine, fault: str) -> None:
    assert refused(server(engine), headers(1, BAD_REQUESTS[fault]))


def test_the_test_above_can_fail(engine: Engine) -> None:
    assert not refused(server(engine), headers(1, [*GET, (b"te", b"trailers")]))
    assert not refused(server(engine), headers(1, CONNECT))


def test_a_body_that_belies_its_length_is_refused(engine: Engine) -> None:
    session = server(engine)
    session.receive(headers(1, [*GET, (b"content-length", b"3")]))
    try:
        events = session.receive(DataFrame(1, b"toolong", flags=["END_STREAM"]).serialize())
    except RemoteProtocolError:
        return
    assert any(isinstance(event, StreamReset) and not event.remote for event in events)


def test_stream_faults_leave_other_streams_alone() -> None:
    session = server("nghttp2")
    session.receive(headers(1, CONNECT))
    session.send_headers(1, OK)
    events = session.receive(
        headers(3, BAD_REQUESTS["connection"])
        + WindowUpdateFrame(1, 1).serialize()
        + headers(5, CONNECT)
    )
    assert [type(event) for event in events] == [HeadersReceived]
    session.receive(
        headers(7, [*GET, (b"content-length", b"3")])
        + DataFrame(7, b"toolong", flags=["END_STREAM"]).serialize()
    )
    assert session.open_streams == 2
    assert payload(session.receive(DataFrame(1, b"fine").serialize()), 1) == b"fine"


def test_a_stream_window_overrun_ends_at_least_the_stream(engine: Engine) -> None:
    session = server(engine, replace(SERVER, stream_window_bytes=65_535))
    session.receive(headers(1, CONNECT))
    wire = DataFrame(1, bytes(40_000)).serialize() * 2
    try:
        events: list[Event] = session.receive(wire)
    except RemoteProtocolError:
        assert goaway_code(session) == FLOW_CONTROL_ERROR
        return
    assert StreamReset(1, FLOW_CONTROL_ERROR, False) in events
    assert len(payload(events, 1)) <= 65_535


def test_a_connection_window_overrun_ends_the_connection(engine: Engine) -> None:
    session = server(
        engine, replace(SERVER, stream_window_bytes=65_535, connection_window_bytes=65_535)
    )
    session.receive(headers(1, CONNECT) + headers(3, CONNECT))
    with pytest.raises(RemoteProtocolError):
        session.receive(
            DataFrame(1, bytes(40_000)).serialize() + DataFrame(3, bytes(40_000)).serialize()
        )
    assert goaway_code(session) == FLOW_CONTROL_ERROR


def test_a_stream_window_that_overflows_ends_at_least_the_stream(engine: Engine) -> None:
    session = server(engine)
    session.receive(headers(1, CONNECT))
    try:
        events = session.receive(WindowUpdateFrame(1, 0x7FFFFFFF).serialize())
    except RemoteProtocolError:
        return
    assert StreamReset(1, FLOW_CONTROL_ERROR, False) in events


def test_a_server_cannot_push(engine: Engine) -> None:
    client = new_session(CLIENT, engine)
    client.receive(SettingsFrame(0).serialize() + ack())
    client.send_request(CONNECT)
    with pytest.raises(RemoteProtocolError):
        client.receive(b"\0\0\5\5\4\0\0\0\1\0\0\0\2\x88")


def test_a_server_cannot_answer_what_was_not_asked(engine: Engine) -> None:
    client = new_session(CLIENT, engine)
    client.receive(SettingsFrame(0).serialize() + ack())
    client.send_request(CONNECT)
    with pytest.raises(RemoteProtocolError):
        client.receive(headers(3, OK))
