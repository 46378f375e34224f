"""Scenarios, and the loop that runs them: rounds outside, peers inside, order rotating."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bench.model import Failure, Measured, Peer
from bench.stats import rotated, summarise
from mesh.errors import MeshnodeError
from tests.lab import LabError

Values = Mapping[str, float]
"""Metric name to value."""

Failed = (
    AssertionError,
    ExceptionGroup,
    LabError,
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
    """

    name: str
    peers: Sequence[Peer]
    rounds: int
    measure: Callable[[Peer], Values]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Scenarios that share what they run on.

    Attributes:
        prefixes: what the names of its scenarios begin with.
        build: sets up and yields the scenarios; they are run inside.
    """

    name: str
    prefixes: Sequence[str]
    build: Callable[[], AbstractContextManager[Sequence[Scenario]]]


class Runner:
    """Runs scenarios and keeps what came out, failures included."""

    def __init__(self, say: Callable[[str], None], wanted: Callable[[str], bool]) -> None:
        self.measured: list[Measured] = []
        self.failures: list[Failure] = []
        self._say = say
        self._wanted = wanted

    def run_suite(self, suite: Suite) -> None:
        """Build the suite and run what is wanted of it; a failure ends this suite only."""
        self._say(f"{suite.name}: setting up")
        try:
            with suite.build() as scenarios:
                for scenario in scenarios:
                    if self._wanted(scenario.name):
                        self.run(scenario)
        except Failed as error:
            self._fail(suite.name, None, error)

    def run(self, scenario: Scenario) -> None:
        """All rounds of one scenario. A peer that fails drops out, the others go on."""
        samples: dict[tuple[Peer, str], list[float]] = {}
        peers = list(scenario.peers)
        for turn in range(scenario.rounds):
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
