"""Heads and bodies: whole, byte by byte, mutated, and against h11."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.http1.message import Body, End, Framing, Limits, MessageError, RequestHead, ResponseHead
from mesh.http1.reader import RequestReader, ResponseReader

LIMITS = Limits()
REQUESTS = (
    b"GET /a?b=c HTTP/1.1\r\nHost: w\r\nX-A: 1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;x=1\r\nhello\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
)


def read_all(data: bytes, step: int) -> list[object]:
    """Events of one request read in pieces; bodies joined."""
    reader = RequestReader(LIMITS)
    events: list[object] = []
    for start in range(0, len(data), step):
        events += reader.receive(data[start : start + step])
    body = b"".join(event.data for event in events if isinstance(event, Body))
    return [*(event for event in events if not isinstance(event, Body)), body]


@pytest.mark.parametrize("data", REQUESTS)
def test_pieces_do_not_matter(data: bytes) -> None:
    whole = read_all(data, len(data))
    assert isinstance(whole[0], RequestHead)
    assert isinstance(whole[1], End)
    for step in (1, 2, 3, 7):
        assert read_all(data, step) == whole


def test_what_follows_waits_for_its_turn() -> None:
    reader = RequestReader(LIMITS)
    events = reader.receive(REQUESTS[1] + REQUESTS[0] + b"GET")
    assert [type(event) for event in events] == [RequestHead, Body, End]
    assert reader.receive(b" /x") == []
    head, end = reader.next_message()
    assert isinstance(head, RequestHead)
    assert head.target == b"/a?b=c"
    assert isinstance(end, End)
    assert reader.next_message() == []
    assert not reader.is_idle


@pytest.mark.parametrize("status", [b"200", b"404"])
def test_a_response_until_close(status: bytes) -> None:
    reader = ResponseReader(LIMITS)
    reader.expect(_request(b"GET"))
    head, body = reader.receive(b"HTTP/1.1 " + status + b" X\r\n\r\nhello")
    assert isinstance(head, ResponseHead)
    assert head.framing is Framing.UNTIL_CLOSE
    assert not head.keep_alive
    assert body == Body(b"hello")
    assert reader.receive_eof() == [End([])]
    assert reader.is_idle


def test_bytes_nobody_asked_for_are_an_error() -> None:
    with pytest.raises(MessageError) as caught:
        ResponseReader(LIMITS).receive(b"HTTP/1.1 200 OK\r\n\r\n")
    assert caught.value.code == "http1.unasked"


def _request(method: bytes) -> RequestHead:
    reader = RequestReader(LIMITS)
    head, *_ = reader.receive(method + b" / HTTP/1.1\r\nHost: w\r\n\r\n")
    assert isinstance(head, RequestHead)
    return head


# --- against another parser: we may refuse more, but never read something else -------------------

MUTATIONS = st.sampled_from(
    (
        *(
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b":",
            b"\0",
            b",",
            b"0",
            b"5",
            b"chunked",
            b"x",
            b";",
        ),
        *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: w\r\n"),
        b"0\r\n\r\n",
    )
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(REQUESTS)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 2)):
            case 0:
                data[at:at] = draw(MUTATIONS)
            case 1:
                del data[at : at + draw(st.integers(1, 4))]
            case _:
                data[at : at + 1] = draw(MUTATIONS)
    return bytes(data)


def ours(data: bytes) -> tuple[bytes, bytes, bytes, bytes] | None:
    """Method, target, body and what is left, of a complete and accepted request."""
    reader = RequestReader(LIMITS)
    try:
        events = reader.receive(data)
    except MessageError:
        return None
    if not events or not isinstance(events[-1], End):
        return None
    head = events[0]
    assert isinstance(head, RequestHead)
    body = b"".join(event.data for event in events if isinstance(event, Body))
    return head.method, head.target, body, data[len(data) - reader.waiting_bytes :]


def theirs(data: bytes) -> tuple[bytes, bytes, bytes, bytes] | None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    method = target = body = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                method, target = event.method, event.target
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return method, target, body, connection.trailing_data[0]
            else:
                return None
    except h11.RemoteProtocolError:
        return None


@settings(max_examples=400, deadline=None)
@given(mutated())
def test_what_we_accept_h11_reads_the_same_way(data: bytes) -> None:
    mine = ours(data)
    if mine is None:
        return
    other = theirs(data)
    # h11 refuses some things that RFC 9110 allows; when both accept, nothing may differ.
    assert other is None or other == mine


@settings(max_examples=200, deadline=None)
@given(mutated(), st.integers(1, 9))
def test_hostile_bytes_read_the_same_in_pieces(data: bytes, step: int) -> None:
    def outcome(size: int) -> object:
        try:
            return read_all(data, size)
        except MessageError as error:
            return error.status // 100

    whole, pieces = outcome(len(data)), outcome(step)
    assert pieces == whole or 4 in (whole, pieces)
