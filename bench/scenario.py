"""Scenarios, and the loop that runs them: rounds outside, peers inside, order rotating.

What a suite measures is known before anything is set up, so that a run can be listed and its length
foretold.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from bench.model import Failure, Measured, Peer
from bench.stats import rotated, summarise
from mesh.errors import MeshnodeError
from tests.lab import LabError

T = TypeVar("T")
Values = Mapping[str, float]
"""Metric name to value."""

Failed = (
    AssertionError,
    ExceptionGroup,
    LabError,
    LookupError,
    MeshnodeError,
    OSError,
    RuntimeError,
    ValueError,
    subprocess.SubprocessError,
)
"""What a scenario may end with without ending the run: the machine, a peer or meshnode failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One thing that is measured, for one or several peers.

    Attributes:
        name: stable, `group/what/parameter`.
        measure: one round of one peer.
        round_s: about how long that takes.
    """

    name: str
    peers: Sequence[Peer]
    rounds: int
    measure: Callable[[Peer], Values]
    round_s: float = 1.0

    @property
    def expected_s(self) -> float:
        return self.round_s * len(self.peers) * self.rounds


class Lent(Generic[T]):
    """What scenarios run on, there only while their suite is set up."""

    def __init__(self) -> None:
        self._present: list[T] = []

    @property
    def now(self) -> T:
        return self._present[-1]

    @contextmanager
    def lend(self, subject: T) -> Iterator[None]:
        self._present.append(subject)
        try:
            yield
        finally:
            self._present.pop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Scenarios that share what they run on.

    Attributes:
        build: sets up; the scenarios are run inside.
        setup_s: about how long that takes.
    """

    name: str
    scenarios: Sequence[Scenario]
    build: Callable[[], AbstractContextManager[None]]
    setup_s: float = 0.0


class Runner:
    """Runs scenarios and keeps what came out, failures included.

    `late` tells that the time is over: what is left gets one round each.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        wanted: Callable[[str], bool],
        late: Callable[[], bool] = lambda: False,
    ) -> None:
        self.measured: list[Measured] = []
        self.failures: list[Failure] = []
        self._say = say
        self._wanted = wanted
        self._late = late

    def run_suite(self, suite: Suite) -> None:
        """Build the suite and run what is wanted of it; a failure ends this suite only."""
        wanted = [scenario for scenario in suite.scenarios if self._wanted(scenario.name)]
        if not wanted:
            return
        self._say(f"{suite.name}: setting up")
        try:
            with suite.build():
                for scenario in wanted:
                    self.run(scenario)
        except Failed as error:
            self._fail(suite.name, None, error)

    def run(self, scenario: Scenario) -> None:
        """All rounds of one scenario. A peer that fails drops out, the others go on."""
        samples: dict[tuple[Peer, str], list[float]] = {}
        peers = list(scenario.peers)
        for turn in range(scenario.rounds):
            if turn and self._late():
                self._say(f"{scenario.name}: late, ended after {turn} of {scenario.rounds} rounds")
                break
            for peer in rotated(peers, turn):
                try:
                    values = scenario.measure(peer)
                except Failed as error:
                    self._fail(scenario.name, peer, error)
                    peers.remove(peer)
                    continue
                for metric, value in values.items():
                    samples.setdefault((peer, metric), []).append(value)
        found = [
            Measured(
                scenario=scenario.name, peer=peer, metric=metric, summary=summarise(samples_of_one)
            )
            for (peer, metric), samples_of_one in samples.items()
            if peer in peers
        ]
        self.measured += found
        said = ", ".join(f"{m.peer} {m.metric} {m.summary.median:.4g}" for m in found)
        self._say(f"{scenario.name}: {said or 'no numbers'}")

    def _fail(self, scenario: str, peer: Peer | None, error: BaseException) -> None:
        notes = "\n".join(getattr(error, "__notes__", []))
        reason = f"{type(error).__name__}: {error}\n{notes}".strip()
        self.failures.append(Failure(scenario=scenario, peer=peer, reason=reason))
        self._say(f"FAILED {scenario}{f', {peer}' if peer else ''}: {reason}")
