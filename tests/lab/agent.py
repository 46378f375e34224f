"""The node agent as a process of a lab, started through its command line as a person would."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agent.admin.client import AdminClient, AgentNotRunning, AgentRefused
from agent.admin.view import NodeStatus, PodState
from agent.paths import NodePaths
from tests.lab.process import Place, Process
from tests.lab.system import eventually

REPOSITORY = Path(__file__).resolve().parents[2]
MESHNODE = (sys.executable, "-c", "from agent.cli.main import main; main()")
MESHNODE_ENVIRONMENT = {
    "PYTHONPATH": str(REPOSITORY),
    "PYTHONDONTWRITEBYTECODE": "1",
    # Every node of a lab is a new one: only the first of all compiles.
    "MESHNODE_PROGRAM_CACHE": str(REPOSITORY / ".cache" / "programs"),
}
LOG_TAIL_LINES = 40
DRAIN = "2s"


class Agent:
    """A running agent of one node.

    Attributes:
        log_file: all it says, access log included.
    """

    def __init__(
        self,
        *,
        paths: NodePaths,
        place: Place,
        log_file: Path,
        source: Path,
        pods_cgroup: Path,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.paths = paths
        self.log_file = log_file
        argv = [*MESHNODE, "agent", "--node", paths.node, "--source", f"file:{source}"]
        argv += ["--cgroup", str(pods_cgroup), "--drain-timeout", DRAIN, *options]
        self._process = Process(place, argv, log_file, {**MESHNODE_ENVIRONMENT, **(env or {})})
        self._client = AdminClient(paths.node, paths.admin_socket)
        self._read_bytes = 0
        self._records: list[Mapping[str, object]] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.running

    def status(self) -> NodeStatus | None:
        """What the agent says of itself; None while it does not answer."""
        try:
            return self._client.status()
        except (AgentNotRunning, AgentRefused):
            return None

    def wait_ready(self, deadline_s: float = 60.0) -> NodeStatus:
        """Wait until it is ready and no pod is pending; AssertionError with its log if not."""

        last: list[NodeStatus] = []

        def ready_or_dead() -> bool:
            if not self.running:
                return True
            status = self.status()
            assert status is not None, "the admin socket does not answer"
            assert not status.not_ready, f"not ready: {'; '.join(status.not_ready)}"
            pending = [f"{pod.uid}: {pod.reason}" for pod in status.pods if not _settled(pod.state)]
            assert not pending, f"pods are pending: {pending}"
            last.append(status)
            return True

        try:
            eventually(ready_or_dead, deadline_s, f"agent of {self.paths.node} is ready")
            assert last, "it ended"
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_tail()}") from error
        return last[-1]

    def wait_revision(self, revision: int, deadline_s: float = 30.0) -> None:
        """Wait until the kernel and all workers hold snapshot `revision` or a later one."""

        def applied() -> bool:
            status = self.status()
            return status is not None and status.applied_revision >= revision

        eventually(applied, deadline_s, f"{self.paths.node} applies revision {revision}")

    @property
    def revision(self) -> int:
        """The snapshot it works with; it must be running."""
        status = self.status()
        assert status is not None, self.log_tail()
        return status.revision

    def wait_problem(self, text: str, *, told: bool) -> None:
        """Wait until it tells of a problem, or no longer, and holds the snapshot that says so."""

        def reached() -> bool:
            status = self.status()
            assert status is not None, "it does not answer"
            known = any(text in str(problem) for problem in status.problems)
            return known is told and status.applied_revision == status.revision

        eventually(reached, what=f"{self.paths.node} {'tells' if told else 'forgets'} {text}")

    def access_log(self) -> list[Mapping[str, object]]:
        """The records of its access log so far, when it was started with the JSON form."""
        with self.log_file.open("rb") as log:
            log.seek(self._read_bytes)
            fresh = log.read()
        complete = fresh[: fresh.rfind(b"\n") + 1]
        self._read_bytes += len(complete)
        self._records += parse_access_log(complete.decode(errors="replace"))
        return self._records.copy()

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines it said, for a failure's text."""
        tail = self._process.output.splitlines()[-lines:]
        return "\n".join([f"--- log of the agent of {self.paths.node}:", *tail])

    def stop(self, deadline_s: float = 30.0) -> int:
        """End it politely; its exit status."""
        return self._process.stop(deadline_s)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the agent process."""
        self._process.signal(number)

    def kill(self) -> None:
        """kill -9 of the agent process alone: holder and pins stay, as after a crash."""
        self._process.kill()


def _settled(state: PodState) -> bool:
    return state is not PodState.PENDING


def parse_access_log(text: str) -> list[Mapping[str, object]]:
    """The records of connections among the lines of an agent's log.

    Left out: the last line if it is half written, and lines that count what was not logged.
    """
    complete, _, _ = text.rpartition("\n")
    lines = (line for line in complete.splitlines() if line.startswith("{"))
    values: Iterator[object] = (json.loads(line) for line in lines)
    records = [value for value in values if isinstance(value, dict)]
    return [one for one in records if one.get("scope") == "access" and "flag" in one]
