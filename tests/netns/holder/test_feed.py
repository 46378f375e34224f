"""A worker's feed on asyncio and uvloop, against a real holder."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import pytest
import uvloop

from agent.holder.client import PodSockets
from agent.holder.feed import HolderFeed
from agent.holder.protocol import Family, HolderError, HolderLostError, SocketKind
from agent.netns import socket_netns_cookie
from tests.netns.holder.scratch import Holder, Namespace

pytestmark = pytest.mark.root

Loop = asyncio.AbstractEventLoop
V4, OUT = Family.V4, SocketKind.OUTBOUND


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[None, None, None]], None]:
    """Runs a coroutine on a fresh loop, for at most twenty seconds."""

    def run_it(main: Coroutine[None, None, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main, 20))

    return run_it


@dataclass
class Recorder:
    """Keeps what it is told and lets a test wait for it."""

    told: list[str] = field(default_factory=list)
    pods: dict[str, PodSockets] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def pod_opened(self, pod: PodSockets) -> None:
        if pod.uid in self.pods:
            self.pods[pod.uid].close()
        self.pods[pod.uid] = pod
        self._tell(f"opened {pod.uid}")

    def pod_closed(self, uid: str) -> None:
        self.pods.pop(uid).close()
        self._tell(f"closed {uid}")

    def pods_synced(self) -> None:
        self._tell("synced")

    def holder_lost(self, detail: str) -> None:
        self._tell("lost")

    def _tell(self, what: str) -> None:
        self.told.append(what)
        self.news.set()

    async def wait_for(self, what: str) -> None:
        while what not in self.told:
            self.news.clear()
            await self.news.wait()

    def close(self) -> None:
        for pod in self.pods.values():
            pod.close()


class Worker:
    """A feed with its recorder, closed at the end."""

    def __init__(self, holder: Holder) -> None:
        self._channel = holder.client().into_worker_channel()

    async def __aenter__(self) -> tuple[HolderFeed, Recorder]:
        self.events = Recorder()
        self.feed = HolderFeed(self._channel, self.events, asyncio.get_running_loop())
        return self.feed, self.events

    async def __aexit__(self, *_: object) -> None:
        self.feed.close()
        self.events.close()


Run = Callable[[Coroutine[None, None, None]], None]


def test_reports_pods_then_synced_then_changes(
    run: Run, holder: Holder, namespace: Callable[[], Namespace]
) -> None:
    first, second, third = namespace(), namespace(), namespace()

    async def main() -> None:
        with holder.client() as node:
            node.open("a", first.fd).close()
            async with Worker(holder) as (_, events):
                await events.wait_for("synced")
                assert events.told == ["opened a", "synced"]
                node.open("b", second.fd).close()
                await events.wait_for("opened b")
                assert events.pods["b"].cookie == second.cookie
                node.open("b", third.fd).close()
                events.told.clear()
                await events.wait_for("opened b")
                assert events.pods["b"].cookie == third.cookie
                node.close_pod("b")
                await events.wait_for("closed b")
                with pytest.raises(ConnectionRefusedError):
                    third.connect("127.0.0.1", 15008)

    run(main())


def test_sockets_come_from_stock(run: Run, holder: Holder, pod: Namespace) -> None:
    async def main() -> None:
        async with Worker(holder) as (feed, events):
            assert feed.stocked == 0
            with await feed.get("pod", V4, OUT) as sock:
                assert socket_netns_cookie(sock) == pod.cookie
                assert sock.getblocking() is False
            taken = feed.take("pod", V4, OUT)
            assert taken is not None, "the batch brought more than one"
            taken.close()
            many = await asyncio.gather(*(feed.get("pod", V4, OUT) for _ in range(200)))
            assert len({sock.fileno() for sock in many}) == 200
            for sock in many:
                sock.close()
            assert feed.stocked <= 32
            await events.wait_for("synced")

    with holder.client() as node:
        node.open("pod", pod.fd).close()
    before = len(os.listdir("/proc/self/fd"))
    run(main())
    assert len(os.listdir("/proc/self/fd")) <= before


def test_take_without_stock_orders_it(run: Run, holder: Holder, pod: Namespace) -> None:
    async def main() -> None:
        async with Worker(holder) as (feed, _):
            assert feed.take("pod", Family.V6, SocketKind.INBOUND) is None
            with await feed.get("pod", Family.V6, SocketKind.INBOUND) as sock:
                assert sock.family == socket.AF_INET6

    with holder.client() as node:
        node.open("pod", pod.fd).close()
    run(main())


def test_unknown_and_closed_pods_are_errors(run: Run, holder: Holder, pod: Namespace) -> None:
    async def main() -> None:
        with holder.client() as node:
            node.open("pod", pod.fd).close()
            async with Worker(holder) as (feed, events):
                with pytest.raises(HolderError, match="no pod 'none' is open"):
                    await feed.get("none", V4, OUT)
                (await feed.get("pod", V4, OUT)).close()
                assert feed.stocked > 0
                node.close_pod("pod")
                await events.wait_for("closed pod")
                assert feed.stocked == 0
                with pytest.raises(HolderError, match="no pod 'pod' is open"):
                    await feed.get("pod", V4, OUT)

    run(main())


def test_cancelled_waiters_lose_nothing(run: Run, holder: Holder, pod: Namespace) -> None:
    async def main() -> None:
        async with Worker(holder) as (feed, _):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(feed.get("pod", V4, OUT)) for _ in range(20)]
                await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
            for task in tasks[1::2]:
                task.result().close()

    with holder.client() as node:
        node.open("pod", pod.fd).close()
    before = len(os.listdir("/proc/self/fd"))
    run(main())
    assert len(os.listdir("/proc/self/fd")) <= before


def test_lost_holder_fails_waiters_and_is_reported(
    run: Run, holder: Holder, pod: Namespace
) -> None:
    async def main() -> None:
        async with Worker(holder) as (feed, events):
            await events.wait_for("opened pod")
            holder.kill()
            with pytest.raises(HolderLostError):
                await feed.get("pod", V4, OUT)
            await events.wait_for("lost")
            assert events.told.count("lost") == 1
            assert feed.take("pod", V4, OUT) is None
            # What the worker has is still served.
            pod.connect("127.0.0.1", 15008).close()

    with holder.client() as node:
        node.open("pod", pod.fd).close()
    run(main())
