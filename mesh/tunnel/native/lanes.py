"""Doors, lanes and stocks of the native engine (`mesh.tunnel.lanes`)."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Sequence
from typing import Protocol

from mesh.model.address import IPAddress
from mesh.tunnel.contract import Tunnel
from mesh.tunnel.lanes import (
    DoorEvents,
    FarRoute,
    LaneEnd,
    LaneEvents,
    LaneRecord,
    LaneTally,
    NearRoute,
    Stock,
    StockEvents,
)
from mesh.tunnel.native import core
from mesh.tunnel.native._native import ffi, lib
from mesh.tunnel.native.core import Core, Handle, Record, held
from mesh.tunnel.native.objects import Host, NativeTunnel

_ENDS: tuple[LaneEnd, ...] = tuple(LaneEnd)
"""In the order of `mt_lane_end`."""
_TALLIED: int = lib.MT_TALLIED_ENDS
_TALLY = struct.Struct(f"={_TALLIED + 4}Q")
_V4_MAPPED = bytes(10) + b"\xff\xff"


class LaneHost(Host, Protocol):
    """The engine, which starts with the first thing it is asked for."""

    def running(self) -> Core: ...


def _address(ip: IPAddress) -> bytes:
    return ip.packed if ip.version == 6 else _V4_MAPPED + ip.packed


def _record(record: Record) -> LaneRecord:
    return LaneRecord(
        end=_ENDS[record.code] if record.kind == core.ENDED else None,
        established=record.established,
        status=record.status,
        detail=record.detail,
        bytes_out=record.bytes_out,
        bytes_in=record.bytes_in,
        client_port=record.port,
        began_at=record.began_at,
        lasted_s=record.lasted_s,
    )


def _tally(text: bytes) -> LaneTally:
    opened, *ended, sent, received, untold = _TALLY.unpack(text)
    return LaneTally(
        opened=opened,
        ended={_ENDS[i]: count for i, count in enumerate(ended) if count},
        sent=sent,
        received=received,
        untold=untold,
    )


class NativeLane:
    __slots__ = ("_handle", "_host", "_lanes", "events")

    def __init__(self, lanes: NativeLanes, handle: Handle, events: LaneEvents) -> None:
        self._lanes = lanes
        self._host = lanes.host
        self._handle = handle
        self.events = events
        self._host.register(handle, self)

    def retire(self) -> None:
        if self._host.core is not None:
            lib.mt_lane_retire(self._host.core.pointer, self._handle)

    def cut(self, detail: str) -> None:
        if self._host.core is not None:
            text = detail.encode()
            lib.mt_lane_cut(self._host.core.pointer, self._handle, text, len(text))

    def event(self, record: Record) -> bool:
        if record.kind == core.TALLY:
            self.events.lane_tally(_tally(record.text))
        elif record.kind == core.ENDED:
            self.events.lane_ended(_record(record))
        elif record.kind == core.ACCEPTED:
            self.events.lane_returned(socket.socket(fileno=record.code), record.port)
        elif record.kind == core.LISTED:
            self._lanes.listing.append((self.events, _record(record)))
        else:
            self.events.lane_gone()
            return True
        return False


class NativeDoor:
    __slots__ = ("_closed", "_events", "_handle", "_host")

    def __init__(self, host: LaneHost, handle: Handle, events: DoorEvents) -> None:
        self._host = host
        self._handle = handle
        self._events = events
        self._closed = False
        host.register(handle, self)

    def close(self) -> None:
        if not self._closed and self._host.core is not None:
            lib.mt_door_close(self._host.core.pointer, self._handle)
        self._closed = True

    def event(self, record: Record) -> bool:
        if record.kind == core.ACCEPTED:
            drawn = record.status - 1 if record.status else None
            self._events.door_accepted(socket.socket(fileno=record.code), record.port, drawn)
            return False
        if record.code:
            self._closed = True
            self._events.door_failed(OSError(record.code, os.strerror(record.code)))
        return True


class NativeStock:
    __slots__ = ("_dropped", "_events", "_host", "handle")

    def __init__(self, host: LaneHost, handle: Handle, events: StockEvents) -> None:
        self._host = host
        self.handle = handle
        self._events = events
        self._dropped = False
        host.register(handle, self)

    def add(self, sockets: Sequence[socket.socket]) -> None:
        engine = self._host.core
        if engine is None or self._dropped:
            for sock in sockets:
                sock.close()
            return
        lib.mt_stock_add(
            engine.pointer, self.handle, [sock.detach() for sock in sockets], len(sockets)
        )

    def clear(self) -> None:
        if self._host.core is not None and not self._dropped:
            lib.mt_stock_clear(self._host.core.pointer, self.handle)

    def drop(self) -> None:
        if self._host.core is not None and not self._dropped:
            lib.mt_stock_drop(self._host.core.pointer, self.handle)
        self._dropped = True

    def event(self, record: Record) -> bool:
        if record.kind == core.WANTED:
            if not self._dropped:
                self._events.stock_wanted()
            return False
        return True


class NativeLanes:
    """`mesh.tunnel.lanes.LaneEngine` of one native engine."""

    def __init__(self, host: LaneHost) -> None:
        self.host = host
        self.listing: list[tuple[LaneEvents, LaneRecord]] = []
        self._list: asyncio.Future[list[tuple[LaneEvents, LaneRecord]]] | None = None

    @property
    def connections(self) -> int:
        engine = self.host.core
        return int(lib.mt_lane_connections(engine.pointer)) if engine is not None else 0

    def door(self, group: int, listener: socket.socket, events: DoorEvents) -> NativeDoor:
        engine = self.host.running()
        copy = os.dup(listener.fileno())
        return NativeDoor(self.host, held(lib.mt_door_open(engine.pointer, group, copy)), events)

    def near(self, route: NearRoute, events: LaneEvents) -> NativeLane | None:
        tunnels = [_handle_of(tunnel) for tunnel in route.tunnels]
        lane = lib.mt_lane_near(
            self.host.running().pointer,
            route.group,
            _address(route.dialled.ip),
            route.dialled.port,
            route.endpoint,
            route.endpoints,
            tunnels,
            len(tunnels),
            route.limit,
            route.head,
            len(route.head),
            route.tail,
            len(route.tail),
            route.fields,
        )
        return NativeLane(self, held(lane), events) if lane else None

    def far(self, route: FarRoute, events: LaneEvents) -> NativeLane | None:
        lane = lib.mt_lane_far(
            self.host.running().pointer,
            _handle_of(route.tunnel),
            _stock_of(route.stock).handle,
            route.authority,
            len(route.authority),
            _address(route.target.ip),
            route.target.port,
            ffi.NULL if route.bind is None else _address(route.bind),
            route.client,
            len(route.client),
        )
        return NativeLane(self, held(lane), events) if lane else None

    def stock(self, events: StockEvents) -> NativeStock:
        handle = held(lib.mt_stock_new(self.host.running().pointer))
        return NativeStock(self.host, handle, events)

    async def listed(self, limit: int) -> list[tuple[LaneEvents, LaneRecord]]:
        if self.host.core is None:
            return []
        if self._list is None:
            self._list = self.host.loop.create_future()
            lib.mt_list(self.host.core.pointer, limit)
        return (await asyncio.shield(self._list))[:limit]

    def tell(self, records_per_s: float) -> None:
        if self.host.core is not None:
            lib.mt_tell(self.host.core.pointer, records_per_s)

    def list_ended(self) -> None:
        """The engine has told all; who asks from here on gets a new list."""
        waiting, self._list = self._list, None
        listing, self.listing = self.listing, []
        if waiting is not None:
            waiting.set_result(listing)


def _handle_of(tunnel: Tunnel) -> Handle:
    if not isinstance(tunnel, NativeTunnel):
        raise TypeError("a tunnel of another engine")
    return tunnel.handle


def _stock_of(stock: Stock) -> NativeStock:
    if not isinstance(stock, NativeStock):
        raise TypeError("a stock of another engine")
    return stock
