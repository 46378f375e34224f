"""Connections that applications of this node open: port 15001 of every pod.

accepted -> original destination -> plan -> pooled tunnel (dialled if need be) -> stream -> record.
The application's bytes are read only once the far side has answered 200.
"""

from __future__ import annotations

import logging
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from agent import canary
from agent.holder.protocol import Family, SocketKind
from agent.ztunnel.context import WorkerContext
from agent.ztunnel.near_lanes import NearDecision, NearLanes
from agent.ztunnel.plan_outbound import (
    PassthroughPlan,
    RefusePlan,
    TunnelPlan,
    plan_outbound,
)
from agent.ztunnel.recorder import OpenRecord
from agent.ztunnel.sockets import connect, original_destination, reset
from agent.ztunnel.tunnels import OutboundTunnel
from mesh.balance.least_loaded import choose_least_loaded
from mesh.errors import IdentityError, MeshnodeError, UpstreamError
from mesh.hbone.connect import ConnectRequest, build_connect
from mesh.hbone.pool import PoolKey, TunnelPool
from mesh.hbone.telemetry_headers import Forwarded
from mesh.model.address import IPAddress, SocketAddress, parse_ip
from mesh.model.connection import Path, Reporter, ResponseFlag
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import Endpoint, Workload, WorkloadUid
from mesh.telemetry.party import party
from mesh.tunnel.contract import End, Headers, Stream, Tunnel

log = logging.getLogger(__name__)

CANARY_ADDRESSES = frozenset({parse_ip(canary.ADDRESS_V4), parse_ip(canary.ADDRESS_V6)})
CREDENTIALS_WAIT_S = 5.0
MAX_TRIES = 3
"""A stream that ended unanswered is tried on another tunnel: nothing was read from the client."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What a decision rests on: it can be repeated. Which endpoint was chosen, of how many."""

    dialled: SocketAddress
    snapshot: MeshSnapshot
    endpoint: int
    endpoints: int


class _Choice:
    """Chooses for one connection, and remembers what it chose from."""

    def __init__(self, choose: Callable[[Sequence[Endpoint]], int], drawn: int | None) -> None:
        self._choose = choose
        self._drawn = drawn
        self._chosen: list[tuple[int, int]] = []

    def __call__(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        if len(endpoints) == 1:
            return endpoints[0]
        index, self._drawn = self._drawn, None
        if index is None or index >= len(endpoints):
            index = self._choose(endpoints)
        self._chosen.append((index, len(endpoints)))
        return endpoints[index]

    def decided(self, dialled: SocketAddress, snapshot: MeshSnapshot) -> Decided | None:
        """None if one choice led to another: the engine knows choices of one step."""
        if len(self._chosen) > 1:
            return None
        index, count = self._chosen[0] if self._chosen else (0, 1)
        return Decided(dialled, snapshot, index, count)


@dataclass(slots=True, eq=False)
class Connection:
    """A captured connection that wants a stream; also receives its events."""

    owner: Outbound
    sock: socket.socket
    plan: TunnelPlan
    key: PoolKey
    headers: Headers
    record: OpenRecord
    decided: Decided | None
    tries: int = 0
    stream: Stream | None = None

    def stream_opened(self, headers: Headers) -> None:
        self.owner.count_opened(self)

    def stream_refused(self, status: int, headers: Headers, detail: str) -> None:
        if status == 0 and self.tries < MAX_TRIES:
            self.owner.send(self)
            return
        reset(self.sock)
        flag = ResponseFlag.DENY if status == 401 else ResponseFlag.CONNECT
        text = f"{self.plan.peer} answered {status}" if status else detail
        self.owner.context.recorder.failed(self.record, flag, text)

    def stream_closed(self, end: End) -> None:
        self.owner.count_closed(self)
        self.owner.context.recorder.closed(self.record, end, towards_destination=end.bytes_out)


@dataclass(slots=True, eq=False)
class PassthroughConnection:
    """A captured connection relayed as plain TCP."""

    owner: Outbound
    record: OpenRecord

    def relay_closed(self, end: End) -> None:
        self.owner.count_relay(-1)
        self.owner.context.recorder.closed(self.record, end, towards_destination=end.bytes_out)


class Outbound:
    """All outbound connections of one worker."""

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        self.pool: TunnelPool[Connection] = TunnelPool(time.monotonic)
        self._random = random.Random()
        self._active: Counter[IPAddress] = Counter()
        self._active_in_lanes: Counter[IPAddress] = Counter()
        self._relays = 0
        self.lanes = NearLanes(context.engine.lanes, context.lane_records, self.accepted)

    @property
    def open_connections(self) -> int:
        """Connections that are open end to end."""
        return self._active.total() + self._relays

    def accepted(
        self,
        uid: WorkloadUid,
        sock: socket.socket,
        client: SocketAddress,
        drawn: int | None = None,
    ) -> None:
        """Take a connection captured in the pod `uid`. `drawn`: the endpoint that the engine chose
        for it, as `choose_least_loaded` would."""
        source = self.context.state.snapshot.workloads.get(uid)
        dialled = original_destination(sock)
        if source is None or dialled is None:
            log.warning(
                "%s: no %s for a connection of %s",
                uid,
                "workload" if dialled else "original destination",
                client,
            )
            reset(sock)
            return
        if dialled.ip in CANARY_ADDRESSES:
            _answer_canary(sock)
            return
        client = _own_address(source, dialled, client.port)
        snapshot = self.context.state.snapshot
        choice = _Choice(self._choose, drawn)
        plan = plan_outbound(snapshot, source, dialled, choice)
        match plan:
            case TunnelPlan():
                self._tunnel(source, sock, client, plan, choice.decided(dialled, snapshot))
            case PassthroughPlan():
                self.context.spawn(self._passthrough(source, sock, client, plan))
            case RefusePlan():
                self._refuse(source, sock, client, dialled, plan)

    def _choose(self, endpoints: Sequence[Endpoint]) -> int:
        def load(index: int) -> int:
            address = endpoints[index].address
            return self._active[address] + self._active_in_lanes[address]

        return choose_least_loaded(range(len(endpoints)), load, self._random)

    def _refuse(
        self,
        source: Workload,
        sock: socket.socket,
        client: SocketAddress,
        dialled: SocketAddress,
        plan: RefusePlan,
    ) -> None:
        reset(sock)
        record = self.context.recorder.begin(
            reporter=Reporter.SOURCE,
            path=Path.HBONE,
            src=party(source, source.identity),
            dst=party(plan.destination),
            src_addr=client,
            dst_addr=dialled,
            service=plan.service,
        )
        self.context.recorder.failed(record, plan.flag, plan.detail)

    # -- tunnelled --------------------------------------------------------------------------

    def _tunnel(
        self,
        source: Workload,
        sock: socket.socket,
        client: SocketAddress,
        plan: TunnelPlan,
        decided: Decided | None,
    ) -> None:
        destination = plan.destination
        record = self.context.recorder.begin(
            reporter=Reporter.SOURCE,
            path=Path.HBONE,
            src=party(source, source.identity),
            dst=party(destination, destination.identity),
            src_addr=client,
            dst_addr=plan.authority,
            service=plan.service,
            hbone_addr=plan.peer,
            mutual_tls=True,
        )
        forwarded = Forwarded(
            source=str(client), host=plan.service.hostname if plan.service else ""
        )
        self.send(
            Connection(
                owner=self,
                sock=sock,
                plan=plan,
                key=PoolKey(source.uid, source.identity, plan.peer, plan.expected),
                headers=build_connect(
                    ConnectRequest(authority=plan.authority, forwarded=forwarded)
                ),
                record=record,
                decided=decided,
            )
        )

    def send(self, connection: Connection) -> None:
        """Open a stream on a pooled tunnel, or queue until one is dialled."""
        connection.tries += 1
        tunnel = self.pool.take(connection.key)
        if tunnel is not None:
            self._open(tunnel, connection)
        elif self.pool.wait(connection.key, connection):
            self.context.spawn(self._dial(connection.key))

    def _open(self, tunnel: Tunnel, connection: Connection) -> None:
        connection.stream = tunnel.open_stream(connection.headers, connection.sock, connection)
        decided, key = connection.decided, connection.key
        if decided is None or decided.snapshot is not self.context.state.snapshot:
            return
        decision = NearDecision(
            uid=key.source,
            dialled=decided.dialled,
            endpoint=decided.endpoint,
            endpoints=decided.endpoints,
            record=connection.record.record,
            headers=connection.headers,
            used=partial(self._lane_used, key),
        )
        self.lanes.lay(decision, self.pool.usable(key))

    def _lane_used(self, key: PoolKey, change: int) -> None:
        self.pool.used(key)
        self._active_in_lanes[key.peer.ip] += change
        if not self._active_in_lanes[key.peer.ip]:
            del self._active_in_lanes[key.peer.ip]

    async def _dial(self, key: PoolKey) -> None:
        try:
            credentials = await self.context.state.wait_credentials(
                key.identity, self.context.epoch_s(), CREDENTIALS_WAIT_S
            )
            if credentials is None:
                raise IdentityError(f"no valid certificate for {key.identity}")
            family = Family(key.peer.ip.version)
            sock = await self.context.sockets.get(key.source, family, SocketKind.OUTBOUND)
            await connect(sock, key.peer)
        except MeshnodeError as error:
            flag = (
                ResponseFlag.IDENTITY_ERROR
                if isinstance(error, IdentityError)
                else ResponseFlag.CONNECT
            )
            self.dial_failed(key, flag, str(error))
            return
        self.context.engine.client(
            sock,
            credentials,
            key.expected,
            OutboundTunnel(
                self, self.pool, key, credentials.svid.not_after, self.context.expired.forget
            ),
        )

    def tunnel_up(self, key: PoolKey, tunnel: Tunnel, expires_at: float) -> None:
        """A dialled tunnel is ready: let the waiting connections in."""
        self.pool.dialled(key, tunnel, min(expires_at, tunnel.peer_expires_at))
        self.serve_waiting(key)

    def serve_waiting(self, key: PoolKey) -> None:
        """Give waiting connections to tunnels that have room."""
        while (tunnel := self.pool.take(key)) is not None:
            connection = self.pool.pop_waiter(key)
            if connection is None:
                return
            self._open(tunnel, connection)

    def dial_failed(self, key: PoolKey, flag: ResponseFlag, detail: str) -> None:
        """A tunnel could not be made: refuse the connections that waited for it."""
        for connection in self.pool.dial_failed(key):
            reset(connection.sock)
            self.context.recorder.failed(connection.record, flag, detail)

    def count_opened(self, connection: Connection) -> None:
        self._active[connection.plan.peer.ip] += 1
        self.context.recorder.opened(connection.record)
        if connection.stream is not None:
            self.context.recorder.watch(connection.record, connection.stream, outbound=True)

    def count_closed(self, connection: Connection) -> None:
        ip = connection.plan.peer.ip
        self._active[ip] -= 1
        if not self._active[ip]:
            del self._active[ip]

    def count_relay(self, change: int) -> None:
        self._relays += change

    def close_idle(self) -> None:
        """End tunnels that nobody used for five minutes."""
        for tunnel in self.pool.idle():
            tunnel.drain(0.0)

    def pod_closed(self, uid: WorkloadUid) -> None:
        """End a pod's tunnels, which keep its namespace alive. Open connections go on: it may
        only have left the mesh."""
        for tunnel, expires_at in self.pool.leave(uid):
            self.context.expired.let_end(tunnel, expires_at, self.context.epoch_s())

    def retire_expired(self) -> None:
        """Use no tunnel for new connections once its certificate has ended."""
        now = self.context.epoch_s()
        for key, tunnel in self.pool.expired(now):
            self.context.expired.retire(tunnel, now, f"tunnel of {key.source} to {key.peer}")

    # -- plain ------------------------------------------------------------------------------

    async def _passthrough(
        self, source: Workload, sock: socket.socket, client: SocketAddress, plan: PassthroughPlan
    ) -> None:
        record = self.context.recorder.begin(
            reporter=Reporter.SOURCE,
            path=Path.PASSTHROUGH,
            src=party(source, source.identity),
            dst=party(plan.destination),
            src_addr=client,
            dst_addr=plan.address,
            service=plan.service,
        )
        try:
            family = Family(plan.address.ip.version)
            upstream = await self.context.sockets.get(source.uid, family, SocketKind.OUTBOUND)
            await connect(upstream, plan.address)
        except UpstreamError as error:
            reset(sock)
            self.context.recorder.failed(record, ResponseFlag.CONNECT, str(error))
            return
        self.context.recorder.opened(record)
        self.count_relay(1)
        relay = self.context.engine.relay(sock, upstream, PassthroughConnection(self, record))
        self.context.recorder.watch(record, relay, outbound=True)


def _own_address(source: Workload, dialled: SocketAddress, port: int) -> SocketAddress:
    """The client as the destination will see it: redirected connections come from loopback."""
    for address in source.addresses:
        if address.version == dialled.ip.version:
            return SocketAddress(address, port)
    return SocketAddress(source.addresses[0], port)


def _answer_canary(sock: socket.socket) -> None:
    """Prove to the enrolment check that capture works. The answer fits any send buffer."""
    with sock:
        try:
            sock.send(canary.ANSWER)
        except OSError as error:
            log.info("canary went away: %s", error)
