"""What a node does with a change, as the agent does it: snapshot, policies, the kernel's maps, and
a worker in a process of its own.

The maps are real ones where this process may make them (root), unpinned and attached to nothing.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection

from agent.capture.desired import AgentCgroup
from agent.capture.numbering import Numbering, dump_numbering
from agent.capture.table import Table, create_table
from agent.capture.upkeep import MapUpkeep
from agent.ztunnel.state import WorkerState
from bpf.layout import MAPS
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import WorkloadUid
from mesh.policy.engine import PolicyIndex
from mesh.sources.objects import ObjectSet
from mesh.state.delta import apply_delta, decode_delta, diff, encode_delta
from mesh.state.reducer import Reducer

_WRITTEN = (
    *("mn_backend", "mn_exclude", "mn_exclude_net", "mn_probe", "mn_workload", "mn_service"),
    *("mn_enrolled", "mn_verdict", "mn_config"),
)


class ScaleNode:
    """One node among many, with half of its pods captured."""

    def __init__(self, name: str, tables: Mapping[str, Table], worker: Connection) -> None:
        self._name = name
        self._reducer = Reducer()
        self.snapshot = MeshSnapshot(revision=0)
        self._policies = PolicyIndex.compile(self.snapshot)
        self._cookies: Mapping[WorkloadUid, int] = {}
        self._upkeep = MapUpkeep(
            tables, node=name, agent=AgentCgroup(id=1, level=1), numbering=Numbering()
        )
        self._worker = worker
        self._saved: Numbering | None = None

    def take(self, objects: ObjectSet) -> None:
        """Bring the maps and the worker to what the objects say; the worker answers later."""
        snapshot = self._reducer.reduce(objects)
        delta = diff(self.snapshot, snapshot, self._reducer.touched)
        self._policies = PolicyIndex.compile(snapshot, self._policies)
        self.snapshot = snapshot
        if not self._cookies:
            local = snapshot.local_workloads(self._name)
            self._cookies = {w.uid: 1 + n for n, w in enumerate(local[::2])}
        self._upkeep.apply(snapshot, self._policies, self._cookies, delta)
        if self._upkeep.numbering is not self._saved:
            self._saved = self._upkeep.numbering
            dump_numbering(self._saved)
        self._worker.send_bytes(encode_delta(delta))

    def answer(self) -> float:
        """Wait until the worker has it; when that was, as seconds since the epoch."""
        answer = self._worker.recv()
        assert isinstance(answer, float)
        return answer


@contextmanager
def open_node(name: str) -> Iterator[ScaleNode]:
    """A node with maps of its own and one worker. Raises `KernelError` without root."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        tables = {
            spec.name: stack.enter_context(create_table(spec))
            for spec in MAPS
            if spec.name in _WRITTEN
        }
        ours, theirs = context.Pipe()
        worker = context.Process(target=_work, args=(theirs,), daemon=True)
        worker.start()
        try:
            yield ScaleNode(name, tables, ours)
        finally:
            ours.close()
            worker.terminate()
            worker.join()


def _work(channel: Connection) -> None:
    state = WorkerState()
    while True:
        try:
            message = channel.recv_bytes()
        except EOFError:
            return
        state.replace_snapshot(apply_delta(state.snapshot, decode_delta(message)))
        channel.send(time.time())
