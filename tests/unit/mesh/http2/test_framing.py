from __future__ import annotations

import pytest

from mesh.errors import RemoteProtocolError
from mesh.http2.framing import PREFACE, FrameSplitter, FrameTooLargeError, RawFrame

PING = b"\0\0\x08\6\1\0\0\0\0abcdefgh"
DATA = b"\0\0\2\0\0\x80\0\0\3xy"  # the reserved bit is set
FRAMES = [RawFrame(6, 1, 0, PING), RawFrame(0, 0, 3, DATA)]


def splitter(*, preface: bool = False) -> FrameSplitter:
    return FrameSplitter(max_frame_bytes=100, expect_preface=preface)


@pytest.mark.parametrize("piece", [1, 2, 9, 10, 1000])
@pytest.mark.parametrize("preface", [True, False])
def test_frames_come_out_whole_however_they_went_in(piece: int, preface: bool) -> None:
    cut = splitter(preface=preface)
    wire = (PREFACE if preface else b"") + PING + DATA
    pieces = [wire[at : at + piece] for at in range(0, len(wire), piece)]
    assert [frame for part in pieces for frame in cut.feed(part)] == FRAMES


def test_what_is_incomplete_waits() -> None:
    cut = splitter()
    assert list(cut.feed(PING + DATA[:-1])) == FRAMES[:1]
    assert list(cut.feed(memoryview(DATA[-1:]))) == FRAMES[1:]


def test_a_frame_left_by_a_caller_that_stopped_is_not_lost() -> None:
    cut = splitter()
    assert next(cut.feed(PING + DATA)) == FRAMES[0]
    assert list(cut.feed(b"")) == FRAMES[1:]


def test_a_large_frame_is_refused_by_its_head() -> None:
    with pytest.raises(FrameTooLargeError):
        list(splitter().feed(b"\0\0\x65\0\0\0\0\0\1"))
    assert list(splitter().feed(b"\0\0\x64\0\0\0\0\0\1")) == []


@pytest.mark.parametrize("start", [b"G", b"PRI * HTTP/1.1\r\n"])
def test_a_wrong_preface_is_refused_at_the_first_wrong_byte(start: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        list(splitter(preface=True).feed(start))
