"""Random damage: an engine raises `RemoteProtocolError` or goes on, in bounded time and memory."""

from __future__ import annotations

from hpack import Encoder
from hyperframe.frame import DataFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.errors import RemoteProtocolError
from mesh.http2.contract import DataReceived, HeadersReceived, Http2Session, StreamEnded
from mesh.http2.framing import PREFACE
from mesh.http2.select import Engine, new_session
from tests.contract.http2.frames import headers
from tests.contract.http2.pair import CLIENT, CONNECT, OK, SERVER, Pair, heads

FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MAX_OUTPUT_BYTES = 1 << 20


def client_conversation() -> bytes:
    encoder = Encoder()
    frames = [PREFACE, SettingsFrame(0, {4: 1 << 20, 5: 1 << 20}).serialize()]
    for stream in (1, 3, 5, 7):
        frames += [
            headers(stream, [*CONNECT, (b"baggage", b"name=%d" % stream)], encoder=encoder),
            DataFrame(stream, b"payload" * 20).serialize(),
            WindowUpdateFrame(stream, 1000).serialize(),
        ]
    frames += [
        PingFrame(0, b"12345678").serialize(),
        RstStreamFrame(3, 8).serialize(),
        DataFrame(5, b"end", flags=["END_STREAM"]).serialize(),
        headers(7, [(b"trailer", b"x")], end=True, encoder=encoder),
        b"\0\0\x08\7\0\0\0\0\0" + bytes(8),
    ]
    return b"".join(frames)


def server_conversation() -> bytes:
    """What a server says to a client that opened the streams 1 and 3."""
    p = Pair(new_session(CLIENT, "h2"), new_session(SERVER, "h2"))
    said = b""
    for _ in range(2):
        p.client.send_request(CONNECT)
    for _ in range(4):
        out, _ = p.client.take_output()
        answer(p.server, out)
        out, _ = p.server.take_output()
        said += out
        p.client.receive(out)
    return said


def answer(session: Http2Session, data: bytes) -> None:
    """Echo, as a careless user of the session would."""
    for event in session.receive(data):
        match event:
            case HeadersReceived(stream, fields, _) if fields[0][0] == b":method":
                session.send_headers(stream, OK)
                session.send_data(stream, b"hello" * 400)
            case DataReceived(stream, data, flow_bytes):
                session.consume(stream, flow_bytes)
            case StreamEnded(stream):
                session.reset(stream, 0)
            case _:
                pass


CLIENT_SAYS = client_conversation()
SERVER_SAYS = server_conversation()
Edit = tuple[int, int, bytes]
edits = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.integers(0, 12), st.binary(max_size=12)),
    min_size=1,
    max_size=5,
)
frames = st.builds(
    lambda kind, flags, stream, body: (
        len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body
    ),
    st.integers(0, 12),
    st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 5, 9, 0x7FFFFFFF, 0x80000001]),
    st.binary(max_size=40),
)


def edited(conversation: bytes, changes: list[Edit]) -> bytes:
    """Replace `length` bytes somewhere by others, several times."""
    text = bytearray(conversation)
    for position, length, new in changes:
        at = position % len(text)
        text[at : at + length] = new
    return bytes(text)


def survive(session: Http2Session, data: bytes, piece: int) -> None:
    """Feed everything; what may be raised is raised, what is held stays bounded."""
    try:
        for at in range(0, len(data), piece):
            answer(session, data[at : at + piece])
    except RemoteProtocolError:
        out, _ = session.take_output()
        assert [kind for _, kind, _, _ in heads(out.removeprefix(PREFACE))][-1] == 7
    out, _ = session.take_output(MAX_OUTPUT_BYTES)
    assert len(out) <= MAX_OUTPUT_BYTES
    for _ in range(100):
        if not session.wants_output:
            return
        session.take_output()
    raise AssertionError("output never ends")


@FUZZ
@given(changes=edits, piece=st.sampled_from([1, 5, 100, 1 << 20]))
def test_a_server_survives_damaged_bytes(engine: Engine, changes: list[Edit], piece: int) -> None:
    survive(new_session(SERVER, engine), edited(CLIENT_SAYS, changes), piece)


@FUZZ
@given(changes=edits, piece=st.sampled_from([1, 5, 100, 1 << 20]))
def test_a_client_survives_damaged_bytes(engine: Engine, changes: list[Edit], piece: int) -> None:
    client = new_session(CLIENT, engine)
    for _ in range(2):
        client.send_request(CONNECT)
    survive(client, edited(SERVER_SAYS, changes), piece)


@FUZZ
@given(sequence=st.lists(frames, min_size=1, max_size=8))
def test_a_server_survives_random_frames(engine: Engine, sequence: list[bytes]) -> None:
    session = new_session(SERVER, engine)
    answer(session, CLIENT_SAYS[: CLIENT_SAYS.index(b"payload") - 9])
    survive(session, b"".join(sequence), 1 << 20)


def test_the_undamaged_conversations_pass(engine: Engine) -> None:
    server = new_session(SERVER, engine)
    answer(server, CLIENT_SAYS)
    assert server.open_streams == 1
    client = new_session(CLIENT, engine)
    opened = [client.send_request(CONNECT) for _ in range(2)]
    answer(client, SERVER_SAYS)
    assert client.open_streams == len(opened)
