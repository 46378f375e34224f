"""Put a case's questions to the data path and compare what comes of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

import uvloop

from mesh.model.routing import RouteKey
from mesh.routing.message import fold_headers
from mesh.routing.status import route_statuses
from tests.contract.conformance.backends import WHO, Got
from tests.contract.conformance.clients import Client, Http1Client, Http2Client, Reply
from tests.contract.conformance.world import OTHER, World, world
from tests.unit.mesh.routing.conformance.model import (
    Ask,
    Case,
    Dial,
    DialShare,
    Share,
    Want,
)


class Wire(StrEnum):
    """What the client speaks."""

    HTTP1 = "HTTP/1.1"
    HTTP2 = "HTTP/2"
    OTHER = "TLS, TCP"


LIMIT_S = 60.0


def wires(case: Case) -> tuple[Wire, ...]:
    """What a case's requests can be asked over: gRPC needs HTTP/2, an upgrade HTTP/1.1."""
    asks = [ask for ask, _ in case.exchanges] + [share.ask for share in case.shares]
    if any(("content-type", "application/grpc") in ask.headers for ask in asks):
        return (Wire.HTTP2,)
    if case.dials or case.dial_shares:
        return (Wire.OTHER,)
    if any(("upgrade", "websocket") in ask.headers for ask in asks):
        return (Wire.HTTP1,)
    return (Wire.HTTP1, Wire.HTTP2)


@dataclass(slots=True)
class Player:
    """One run of a case over one protocol."""

    here: World
    wire: Wire
    _clients: dict[tuple[str, str, str, int], Client] = field(default_factory=dict)

    async def client(self, ask: Ask) -> Client:
        """A connection to what a question is about; kept for the next one."""
        key = (ask.caller, ask.pod, ask.service, ask.port)
        if key not in self._clients:
            to = self.here.address(ask)
            streams = await self.here.connect(ask.caller, to)
            make = Http1Client if self.wire is Wire.HTTP1 else Http2Client
            self._clients[key] = make(*streams)
        return self._clients[key]

    async def check(self, ask: Ask, want: Want) -> None:
        """Ask, and compare."""
        board = self.here.board
        board.got.clear()
        board.reply, board.plays = ask.reply, list(ask.plays)
        client = await self.client(ask)
        if ask.upgraded and isinstance(client, Http1Client):
            assert await client.upgrade(ask, b"through the tunnel") == b"through the tunnel"
            reply = Reply(status=101, fields=())
        else:
            reply = await client.ask(ask)
        assert reply.status in (want.statuses or (want.status,)), (ask, reply)
        got = fold_headers(reply.fields)
        assert {name: got.get(name) for name in want.headers} == dict(want.headers), ask
        assert not set(want.unset) & set(got), ask
        await self.check_backends(ask, want)

    async def check_backends(self, ask: Ask, want: Want) -> None:
        """Compare what the backends got, copies included."""
        board = self.here.board
        expected = 1 + len(want.mirrors) if want.backend else 0
        tries = want.tries or expected
        await board.wait(lambda: len(board.got) >= tries)
        assert len(board.got) == tries or tries < 0, (ask, board.got)
        names = Counter(item.backend for item in board.got)
        for mirror in want.mirrors:
            names[mirror] -= 1
        main = +names
        assert set(main) <= _pods_of(want.backend), (ask, main)
        for item in board.got:
            _check_sent(item, want)

    async def check_share(self, share: Share) -> None:
        """Ask often, and compare the distribution."""
        board = self.here.board
        client = await self.client(share.ask)
        statuses: Counter[int] = Counter()
        board.counts.clear()
        for _ in range(share.requests):
            statuses[(await client.ask(share.ask)).status] += 1
        if share.of_mirrors:
            wanted = min(share.percent.values()) - share.tolerance
            await board.wait(
                lambda: all(100 * board.counts[n] >= wanted * share.requests for n in share.percent)
            )
        for name, percent in share.percent.items():
            count = statuses[500] if name == "answer" else board.counts[name]
            assert abs(100 * count / share.requests - percent) <= share.tolerance, name

    async def dial(self, dial: Dial) -> str:
        """Who answers a connection that is no HTTP; empty if it is closed."""
        to = self.here.address(dial)
        try:
            reader, writer = await self.here.connect(dial.caller, to, dial.sni)
            writer.write(WHO)
            return (await reader.read(100)).decode()
        except OSError:
            return ""

    async def check_dials(self, share: DialShare) -> None:
        """Connect often, and compare the distribution."""
        counts = Counter([await self.dial(share.dial) for _ in range(share.connections)])
        for name, percent in share.percent.items():
            assert abs(100 * counts[name] / share.connections - percent) <= share.tolerance, name


def _pods_of(service: str) -> set[str]:
    if service == "echo":
        return {"echo-v1", "echo-v2"}
    return {service.removeprefix(f"{OTHER}/")} if service else set()


def _check_sent(got: Got, want: Want) -> None:
    sent = fold_headers(got.headers)
    assert want.path in (None, got.target)
    assert want.host in (None, got.host)
    assert want.protocol in ("", got.protocol)
    assert {name: sent.get(name) for name in want.sent} == dict(want.sent)
    assert not set(want.absent) & set(sent)


async def play(case: Case, wire: Wire) -> None:
    """Run a case; raises `AssertionError` with what was different."""
    async with asyncio.timeout(LIMIT_S), world(case) as here:
        player = Player(here, wire)
        for ask, want in case.exchanges:
            await player.check(ask, want)
        for share in case.shares:
            await player.check_share(share)
        for dial, backend in case.dials:
            assert await player.dial(dial) in (_pods_of(backend) or {""}), dial
        for dial_share in case.dial_shares:
            await player.check_dials(dial_share)
        statuses = route_statuses(here.snapshot, grants_required=case.grants)
        for state in case.states:
            (parent,) = statuses[RouteKey(state.route)]
            found = parent.condition(state.type)
            assert found is not None
            assert (found.status, found.reason) == (state.status, state.reason)
            assert state.generation in (0, found.observed_generation)


def run(case: Case, wire: Wire) -> None:
    """Run a case on the loop of production."""
    uvloop.run(play(case, wire))
