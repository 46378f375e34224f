"""Packets of the holder's protocol: round trips, and every way to be malformed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.holder.codec import (
    format_answer,
    format_event,
    format_request,
    parse_reply,
    parse_request,
)
from agent.holder.protocol import (
    LIST_PAGE,
    MAX_ANSWER_BYTES,
    Adopt,
    Answer,
    Become,
    Close,
    Event,
    EventKind,
    Family,
    ListenerName,
    Listeners,
    ListPods,
    Malformed,
    Open,
    Ping,
    PodRecord,
    Request,
    Role,
    SocketKind,
    Vend,
    Watch,
)
from mesh.errors import RemoteProtocolError

REQUESTS: list[Request] = [
    Ping(),
    Become(role=Role.WORKER),
    Open(uid="cluster//Pod/ns/name"),
    Adopt(uid="a", listeners=(ListenerName.HBONE, ListenerName.OUTBOUND4)),
    Close(uid="a"),
    ListPods(after="a"),
    Listeners(uid="a"),
    Vend(uid="a", family=Family.V6, kind=SocketKind.INBOUND, count=32),
    Watch(),
]
POD = PodRecord(uid="a", cookie=2**64 - 1, listeners=tuple(ListenerName))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_request_round_trip(request_: Request) -> None:
    assert parse_request(format_request(7, request_)) == (7, request_)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not a JSON object"),
        (b"\xff\xfe", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b"[" * 8000, "not a JSON object"),
        (b'{"op":"ping"}', "'id' must be a number"),
        (b'{"id":true,"op":"ping"}', "'id' must be a number"),
        (b'{"id":-1,"op":"ping"}', "'id' must be a number"),
        (b'{"id":1}', "'op' must be a string"),
        (b'{"id":1,"op":"fly"}', "unknown operation 'fly'"),
        (b'{"id":1,"op":"become","role":"god"}', "not a valid Role"),
        (b'{"id":1,"op":"open"}', "'uid' must be a string"),
        (b'{"id":1,"op":"open","uid":""}', "'uid' must be 1 to 253"),
        (b'{"id":1,"op":"open","uid":"a\\nb"}', "'uid' must be 1 to 253"),
        (b'{"id":1,"op":"adopt","uid":"a","listeners":"hbone"}', "must be a list"),
        (b'{"id":1,"op":"adopt","uid":"a","listeners":["x"]}', "'listeners'"),
        (b'{"id":1,"op":"adopt","uid":"a","listeners":["hbone","hbone"]}', "names one twice"),
        (b'{"id":1,"op":"vend","uid":"a","family":5,"kind":"inbound","count":1}', "valid Family"),
        (b'{"id":1,"op":"vend","uid":"a","family":4,"kind":"x","count":1}', "valid SocketKind"),
        (b'{"id":1,"op":"vend","uid":"a","family":4,"kind":"inbound","count":0}', "from 1 to 32"),
        (b'{"id":1,"op":"vend","uid":"a","family":4,"kind":"inbound","count":33}', "from 1 to 32"),
        (b'{"id":1,"op":"vend","uid":"a","family":4,"kind":"inbound","count":1.5}', "from 1 to 32"),
    ],
)
def test_malformed_request(data: bytes, complaint: str) -> None:
    _, request = parse_request(data)
    assert isinstance(request, Malformed)
    assert complaint in request.complaint


def test_malformed_request_keeps_its_id() -> None:
    assert parse_request(b'{"id":9,"op":"fly"}')[0] == 9


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(data: bytes) -> None:
    parse_request(data)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(id=1),
        Answer(id=2, error="no"),
        Answer(id=3, pods=(POD, POD), more=True),
        Answer(id=4, pid=77, version=1),
    ],
)
def test_answer_round_trip(answer: Answer) -> None:
    assert parse_reply(format_answer(answer)) == answer


def test_answer_says_ok_or_error() -> None:
    assert b'"ok": true' in format_answer(Answer(id=1))
    assert b'"ok": false' in format_answer(Answer(id=1, error="no"))


@pytest.mark.parametrize(
    "event",
    [
        Event(kind=EventKind.OPENED, pod=POD),
        Event(kind=EventKind.CLOSED, pod=POD),
        Event(kind=EventKind.SYNCED),
    ],
)
def test_event_round_trip(event: Event) -> None:
    assert parse_reply(format_event(event)) == event


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"event":"x"}',
        b'{"event":"opened"}',
        b'{"id":1,"pods":[1]}',
        b'{"id":1,"pid":"x"}',
    ],
)
def test_malformed_reply(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_reply(data)


def test_full_page_fits_a_packet() -> None:
    longest = PodRecord(uid="a" * 253, cookie=2**64 - 1, listeners=tuple(ListenerName))
    page = Answer(id=2**53, pods=(longest,) * LIST_PAGE, more=True)
    assert len(format_answer(page)) <= MAX_ANSWER_BYTES
