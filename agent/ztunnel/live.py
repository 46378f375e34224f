"""Open inbound connections, judged again whenever anything that policy looks at has changed."""

from __future__ import annotations

from typing import Protocol

from agent.ztunnel.plan_inbound import still_allowed
from agent.ztunnel.state import WorkerState
from mesh.model.verdict import ConnectionFacts, Verdict
from mesh.model.workload import WorkloadUid


class Admitted(Protocol):
    """An inbound connection that policy let in."""

    uid: WorkloadUid
    facts: ConnectionFacts

    def cut(self, verdict: Verdict) -> None:
        """End it now: policy does not allow it any more."""


class LiveConnections:
    """Every admitted connection of one worker."""

    def __init__(self) -> None:
        self._connections: set[Admitted] = set()

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, connection: Admitted) -> None:
        self._connections.add(connection)

    def remove(self, connection: Admitted) -> None:
        self._connections.discard(connection)

    def judge_again(self, state: WorkerState) -> int:
        """Cut what is denied now. Returns how many were cut."""
        verdicts: dict[tuple[WorkloadUid, ConnectionFacts], Verdict] = {}
        cut = 0
        for connection in list(self._connections):
            key = (connection.uid, connection.facts)
            verdict = verdicts.get(key)
            if verdict is None:
                verdict = still_allowed(state.snapshot, state.policies, *key)
                verdicts[key] = verdict
            if not verdict.allowed:
                connection.cut(verdict)
                cut += 1
        return cut
