"""The blocking client against a peer that misbehaves."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

import pytest

from agent.holder.client import HolderClient
from agent.holder.codec import format_answer, format_event
from agent.holder.protocol import (
    PROTOCOL_VERSION,
    Answer,
    Event,
    EventKind,
    HolderError,
    HolderLostError,
    ListenerName,
    PodRecord,
)
from agent.holder.wire import receive_packet, send_packet

POD = PodRecord(uid="a", cookie=1, listeners=(ListenerName.HBONE,))


def against(answer: bytes, act: Callable[[HolderClient], object], timeout_s: float = 5.0) -> None:
    """Run `act` on a client whose holder gives one answer (none if empty)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def serve() -> None:
        packet = receive_packet(theirs, 65536)
        assert packet is not None
        packet.close()
        if answer:
            send_packet(theirs, answer)

    thread = threading.Thread(target=serve)
    thread.start()
    with theirs, HolderClient(ours, timeout_s) as client:
        try:
            act(client)
        finally:
            thread.join()


def test_other_protocol_is_named() -> None:
    answer = format_answer(Answer(id=1, pid=7, version=PROTOCOL_VERSION + 1))
    with pytest.raises(HolderError, match=f"speaks protocol {PROTOCOL_VERSION + 1}"):
        against(answer, HolderClient.ping)


def test_silence_is_a_lost_holder() -> None:
    with pytest.raises(HolderLostError, match="does not answer"):
        against(b"", HolderClient.ping, timeout_s=0.05)


@pytest.mark.parametrize(
    "answer",
    [
        format_answer(Answer(id=2, pid=7, version=PROTOCOL_VERSION)),
        format_event(Event(kind=EventKind.SYNCED)),
    ],
)
def test_answer_to_something_else(answer: bytes) -> None:
    with pytest.raises(HolderLostError, match="something else"):
        against(answer, HolderClient.ping)


def test_answer_that_is_no_packet_of_ours() -> None:
    with pytest.raises(HolderLostError, match="makes no sense"):
        against(b"hello", HolderClient.ping)


@pytest.mark.parametrize("pods", [(), (POD,)])
def test_pod_without_its_descriptors(pods: tuple[PodRecord, ...]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(HolderLostError):
        against(format_answer(Answer(id=1, pods=pods)), lambda client: client.listeners("a"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_refusal_carries_the_holders_words() -> None:
    with pytest.raises(HolderError, match="because"):
        against(format_answer(Answer(id=1, error="because")), lambda client: client.close_pod("a"))
