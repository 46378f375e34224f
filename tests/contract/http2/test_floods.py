"""Peers that send too much or never read: what we hold for them stays bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from mesh.errors import RemoteProtocolError
from mesh.http2.contract import HeadersReceived
from mesh.http2.select import Engine, new_session
from tests.contract.http2.frames import (
    CALM,
    GET,
    NO_ERROR,
    ack,
    feed,
    feed_until_refused,
    goaway_code,
    headers,
    refused,
    server,
)
from tests.contract.http2.pair import CLIENT, CONNECT, OK, SERVER


def test_a_header_list_above_the_limit_is_never_announced(engine: Engine) -> None:
    big = [(b"x%d" % n, bytes([65]) * 4000) for n in range(20)]
    session = server(engine)
    wire = headers(1, [*CONNECT, *big[:15]])
    assert not refused(session, wire)
    assert refused(server(engine), headers(1, [*CONNECT, *big]))


def test_a_header_bomb_ends_the_connection(engine: Engine) -> None:
    """4 KiB in the dynamic table, referred to by one byte each."""
    encoder = Encoder()
    first = encoder.encode([*CONNECT, (b"bomb", b"A" * 3900)], huffman=False)
    frame = HeadersFrame(1, first + b"\xbe" * 16_000, flags=["END_HEADERS"]).serialize()
    session = server(engine)
    with pytest.raises(RemoteProtocolError):
        session.receive(frame)
    assert goaway_code(session) == CALM


def test_a_continuation_flood_ends_the_connection(engine: Engine) -> None:
    session = server(engine)
    session.receive(HeadersFrame(1, Encoder().encode(CONNECT)).serialize())
    assert feed_until_refused(session, ContinuationFrame(1, b"").serialize(), 1000) <= 16
    assert goaway_code(session) != NO_ERROR


def test_a_rapid_reset_flood_ends_the_connection(engine: Engine) -> None:
    session = server(engine, replace(SERVER, max_concurrent_streams=50))
    encoder = Encoder()
    pieces = (
        headers(stream, CONNECT, encoder=encoder) + RstStreamFrame(stream, 8).serialize()
        for stream in range(1, 2000, 2)
    )
    assert feed(session, pieces) == 150
    assert goaway_code(session) == CALM


def test_resets_after_an_answer_are_nobodys_fault(engine: Engine) -> None:
    """Applications that end with a reset do so on every connection, for days."""
    session = server(engine, replace(SERVER, max_concurrent_streams=10))
    encoder = Encoder()
    for number in range(1000):
        stream = 2 * number + 1
        session.receive(headers(stream, CONNECT, encoder=encoder))
        session.send_headers(stream, OK)
        session.take_output()
        session.receive(RstStreamFrame(stream, 8).serialize())
    assert session.open_streams == 0


def test_faults_that_make_us_reset_are_counted_too(engine: Engine) -> None:
    """ "Made you reset": the peer opens streams and provokes our RST_STREAM."""
    session = server(engine, replace(SERVER, max_concurrent_streams=20))
    encoder = Encoder()
    pieces = (
        headers(stream, CONNECT, encoder=encoder)
        + WindowUpdateFrame(stream, 0x7FFFFFFF).serialize()
        for stream in range(1, 2000, 2)
    )
    assert feed(session, pieces) <= 120


FLOODS: dict[str, Callable[[], bytes]] = {
    "ping": lambda: PingFrame(0, bytes(8)).serialize(),
    "settings": lambda: SettingsFrame(0).serialize(),
    "empty data": lambda: DataFrame(1, b"").serialize(),
    "padded empty data": lambda: DataFrame(1, b"", pad_length=10, flags=["PADDED"]).serialize(),
    "priority": lambda: PriorityFrame(1, depends_on=0, stream_weight=1).serialize(),
    "unknown frames": lambda: ExtensionFrame(0xBE, 0, body=b"x").serialize(),
    "answers to no ping": lambda: PingFrame(0, bytes(8), flags=["ACK"]).serialize(),
}


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("at_once", [1, 50])
def test_a_flood_by_a_peer_that_never_reads_is_bounded(
    engine: Engine, flood: str, at_once: int
) -> None:
    session = server(engine)
    session.receive(headers(1, CONNECT))
    assert feed_until_refused(session, FLOODS[flood]() * at_once, 20_000) < 10_000
    out, _ = session.take_output()
    assert len(out) < 200_000
    assert not session.wants_output


def test_pings_of_a_peer_that_reads_are_answered_for_ever(engine: Engine) -> None:
    session = server(engine)
    for number in range(5000):
        body = number.to_bytes(8, "big")
        session.receive(PingFrame(0, body).serialize())
        out, _ = session.take_output()
        assert out == PingFrame(0, body, flags=["ACK"]).serialize()


def test_more_streams_than_allowed_are_refused(engine: Engine) -> None:
    session = server(engine, replace(SERVER, max_concurrent_streams=5))
    encoder = Encoder()
    announced = 0
    try:
        for number in range(50):
            events = session.receive(headers(2 * number + 1, CONNECT, encoder=encoder))
            announced += sum(isinstance(event, HeadersReceived) for event in events)
    except RemoteProtocolError:
        assert goaway_code(session) != NO_ERROR
    assert announced == 5
    assert session.open_streams <= 5


def test_informational_responses_do_not_go_on_for_ever(engine: Engine) -> None:
    client = new_session(CLIENT, engine)
    client.receive(SettingsFrame(0).serialize() + ack())
    client.send_request(GET)
    client.take_output()
    encoder = Encoder()
    early = headers(1, [(b":status", b"103")], encoder=encoder)
    assert feed_until_refused(client, early, 5000) <= 1001


def test_a_peer_that_never_reads_gets_no_more_than_its_window(engine: Engine) -> None:
    session = server(engine)
    session.receive(headers(1, CONNECT))
    session.send_headers(1, OK)
    session.send_data(1, bytes(1 << 20))
    total = 0
    while session.wants_output:
        out, _ = session.take_output()
        total += len(out)
    assert total < 70_000
    assert session.unsent_bytes(1) == (1 << 20) - 65_535
