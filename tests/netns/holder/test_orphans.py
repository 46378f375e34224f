"""Never a hang: without a worker, clients are reset after the grace period."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.holder.protocol import ListenerName
from tests.netns.holder.scratch import Holder, Namespace

pytestmark = pytest.mark.root

TARGETS = (("127.0.0.1", 15001), ("::1", 15001), ("127.0.0.1", 15006), ("::1", 15008))


def ends_in_reset(pod: Namespace, host: str, port: int) -> bool:
    """Connect and wait for the end: a reset, not a quiet end and not a timeout."""
    try:
        with pod.connect(host, port) as client:
            client.recv(1)
    except ConnectionResetError:
        return True
    return False


def test_waiting_connections_are_reset(
    holder_for: Callable[[float], Holder], pod: Namespace
) -> None:
    holder = holder_for(0.2)
    with holder.client() as node:
        node.open("pod", pod.fd).close()
    for host, port in TARGETS:
        assert ends_in_reset(pod, host, port), (host, port)


def test_pod_opened_while_orphaned_is_reset_too_and_close_works(
    holder_for: Callable[[float], Holder], namespace: Callable[[], Namespace]
) -> None:
    holder = holder_for(0.0)
    first, second = namespace(), namespace()
    with holder.client() as node:
        node.open("first", first.fd).close()
        node.open("second", second.fd).close()
        node.close_pod("first")
    assert ends_in_reset(second, "127.0.0.1", 15008)
    with pytest.raises(ConnectionRefusedError):
        first.connect("127.0.0.1", 15008)


def test_worker_takes_what_waits_and_its_end_brings_the_resets_back(
    holder_for: Callable[[float], Holder], pod: Namespace
) -> None:
    holder = holder_for(0.3)
    with holder.client() as node:
        sockets = node.open("pod", pod.fd)
    listener = sockets.listeners[ListenerName.HBONE]
    listener.setblocking(True)
    listener.settimeout(30)
    assert ends_in_reset(pod, "127.0.0.1", 15008)
    with holder.client().into_worker_channel():
        with pod.connect("127.0.0.1", 15008) as client:
            # The grace period is over many times; with a worker there is no reset.
            client.settimeout(1.0)
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(30.0)
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"!")
                assert client.recv(1) == b"!"
        last = pod.connect("127.0.0.1", 15008)
    with last, pytest.raises(ConnectionResetError):
        last.recv(1)
    sockets.close()
