"""Turns what happened to a connection into records, and hands them on in batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from mesh.model.address import SocketAddress
from mesh.model.connection import ConnectionRecord, Party, Path, Reporter, ResponseFlag
from mesh.model.verdict import Verdict
from mesh.model.workload import Service
from mesh.tunnel.contract import End, EndReason

FLAG_OF_END = {
    EndReason.DONE: ResponseFlag.NONE,
    EndReason.APPLICATION_RESET: ResponseFlag.DOWNSTREAM_CLOSED,
    EndReason.PEER_RESET: ResponseFlag.UPSTREAM_RESET,
    EndReason.TUNNEL_LOST: ResponseFlag.UPSTREAM_RESET,
    EndReason.ABORTED: ResponseFlag.UPSTREAM_RESET,
}


@dataclass(frozen=True, slots=True)
class OpenRecord:
    """A connection under way: its record so far, and when it began on the monotonic clock."""

    record: ConnectionRecord
    began_s: float


class Moving(Protocol):
    """What moves a connection's bytes, and counts them: a stream or a relay of the engine."""

    @property
    def bytes_out(self) -> int: ...
    @property
    def bytes_in(self) -> int: ...


@dataclass(slots=True)
class _Open:
    """A connection that is open end to end.

    Attributes:
        outbound: whether `bytes_out` goes from source to destination.
        told: bytes (sent, received) that were reported already.
    """

    connection: OpenRecord
    moving: Moving | None = None
    outbound: bool = True
    told: tuple[int, int] = (0, 0)

    def moved(self) -> tuple[int, int]:
        if self.moving is None:
            return self.told
        out, back = self.moving.bytes_out, self.moving.bytes_in
        return (out, back) if self.outbound else (back, out)


class Progress(Protocol):
    """Takes what open connections moved, before they end."""

    def __call__(
        self, record: ConnectionRecord, sent: int, received: int, *, ended: bool
    ) -> object:
        """Count these bytes; `ended`: the record is that of the end, and counts as one."""


class Recorder:
    """Collects records of one worker. `emit(opened, closed)` gets them in batches; `pending` is
    called when there is something to flush that was not before; `progress` gets the bytes of
    connections that stay open."""

    def __init__(
        self,
        emit: Callable[[list[ConnectionRecord], list[ConnectionRecord]], None],
        pending: Callable[[], object],
        progress: Progress,
    ) -> None:
        self._emit = emit
        self._progress = progress
        self._pending = pending
        self.under_way = 0
        """Connections that began and have not ended; those that wait for a tunnel included."""
        self._open: dict[int, _Open] = {}
        self._opened: list[ConnectionRecord] = []
        self._closed: list[ConnectionRecord] = []

    def begin(
        self,
        *,
        reporter: Reporter,
        path: Path,
        src: Party,
        dst: Party,
        src_addr: SocketAddress,
        dst_addr: SocketAddress,
        service: Service | None = None,
        hbone_addr: SocketAddress | None = None,
        mutual_tls: bool = False,
        verdict: Verdict | None = None,
    ) -> OpenRecord:
        """Start a record. Exactly one `failed` or `closed` must follow."""
        self.under_way += 1
        record = ConnectionRecord(
            reporter=reporter,
            path=path,
            flag=ResponseFlag.NONE,
            src=src,
            dst=dst,
            src_addr=src_addr,
            dst_addr=dst_addr,
            opened_at=time.time(),
            duration_s=0.0,
            bytes_sent=0,
            bytes_received=0,
            service=service.key if service else "",
            hbone_addr=hbone_addr,
            mutual_tls=mutual_tls,
            policy=str(verdict.decided_by or "") if verdict else "",
            dry_run=tuple(map(str, verdict.dry_run)) if verdict else (),
            audited=tuple(map(str, verdict.audited)) if verdict else (),
        )
        return OpenRecord(record, time.monotonic())

    def opened(self, connection: OpenRecord) -> None:
        """The connection is established end to end."""
        self._open[id(connection)] = _Open(connection)
        self._notice()
        self._opened.append(connection.record)

    def watch(self, connection: OpenRecord, moving: Moving, *, outbound: bool) -> None:
        """Report the bytes of an open connection now and then."""
        found = self._open.get(id(connection))
        if found is not None:
            found.moving, found.outbound = moving, outbound

    def report_progress(self) -> None:
        """Report what open connections moved since they were asked last."""
        for found in self._open.values():
            moved, told = found.moved(), found.told
            if moved != told:
                found.told = moved
                self._progress(
                    found.connection.record, moved[0] - told[0], moved[1] - told[1], ended=False
                )

    def failed(self, connection: OpenRecord, flag: ResponseFlag, detail: str) -> None:
        """The connection was refused or could not be made: begun and ended at once."""
        self._notice()
        self._opened.append(connection.record)
        self._close(connection, flag, detail, 0, 0)

    def refused(self, record: ConnectionRecord) -> None:
        """A connection that somebody else began (the engine) came to nothing."""
        self._notice()
        self._opened.append(record)
        self._closed.append(record)

    def closed(
        self,
        connection: OpenRecord,
        end: End,
        *,
        towards_destination: int,
        flag: ResponseFlag | None = None,
    ) -> None:
        """An opened connection ended. `towards_destination`: which count of `end` went from
        source to destination."""
        found = self._open.pop(id(connection), None)
        back = end.bytes_out + end.bytes_in - towards_destination
        flag = flag or FLAG_OF_END[end.reason]
        if found is None or found.told == (0, 0):
            self._close(connection, flag, end.detail, towards_destination, back)
            return
        self.under_way -= 1
        record = _at_end(connection, flag, end.detail, towards_destination, back)
        rest = towards_destination - found.told[0], back - found.told[1]
        self._progress(record, *rest, ended=True)

    def _close(
        self, connection: OpenRecord, flag: ResponseFlag, detail: str, sent: int, received: int
    ) -> None:
        self.under_way -= 1
        self._notice()
        self._closed.append(_at_end(connection, flag, detail, sent, received))

    def _notice(self) -> None:
        if not (self._opened or self._closed):
            self._pending()

    def open_records(self) -> list[ConnectionRecord]:
        """Connections that are open now."""
        now = time.monotonic()
        return [
            replace(
                found.connection.record,
                duration_s=now - found.connection.began_s,
                bytes_sent=found.moved()[0],
                bytes_received=found.moved()[1],
            )
            for found in self._open.values()
        ]

    def flush(self) -> None:
        """Hand on what was collected."""
        if self._opened or self._closed:
            opened, self._opened = self._opened, []
            closed, self._closed = self._closed, []
            self._emit(opened, closed)


def _at_end(
    connection: OpenRecord, flag: ResponseFlag, detail: str, sent: int, received: int
) -> ConnectionRecord:
    return replace(
        connection.record,
        flag=flag,
        detail=detail,
        duration_s=time.monotonic() - connection.began_s,
        bytes_sent=sent,
        bytes_received=received,
    )
