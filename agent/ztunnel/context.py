"""What every path of a worker needs; built once by `worker.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass

from agent.ztunnel.lane_records import LaneRecords
from agent.ztunnel.live import LiveConnections
from agent.ztunnel.recorder import Recorder
from agent.ztunnel.sockets import SocketSource
from agent.ztunnel.state import WorkerState
from mesh.tunnel.contract import TunnelEngine
from mesh.tunnel.expired import ExpiredTunnels


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """State, engine, sockets, records, and the task group that owns every task of a worker."""

    state: WorkerState
    engine: TunnelEngine
    sockets: SocketSource
    recorder: Recorder
    lane_records: LaneRecords
    live: LiveConnections
    expired: ExpiredTunnels
    tasks: asyncio.TaskGroup

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run a coroutine that ends its own domain errors; anything else stops the worker."""
        self.tasks.create_task(work)

    def epoch_s(self) -> float:
        """Wall clock, for certificate validity."""
        return time.time()
