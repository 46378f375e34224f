"""The life of one node: start to ready, enrolment of many pods, what it costs at rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent.admin.view import PodState
from bench.model import Peer
from bench.plan import AgentSettings, Cores, Plan
from bench.scenario import Lent, Scenario, Suite, Values
from bench.stand import START_S, node_cgroups
from bench.usage import cpu_seconds, pin, resident_bytes, wait_quiet
from tests.lab import Lab, Node, Pod, eventually
from tests.lab.objects import KubeObject

NAMESPACE = "default"
ENROL_S_PER_POD = 1.0
"""Patience, not expectation."""
ENROL_S, ENROL_S_EACH = 0.5, 0.06
"""Expectation, with the making of the pods."""


def node_suite(plan: Plan, cores: Cores, agents: AgentSettings) -> Suite:
    """Everything that needs one node and its agent."""

    lent: Lent[_Subject] = Lent()

    @contextmanager
    def build() -> Iterator[None]:
        with Lab("bench-node") as lab:
            lab.namespace(NAMESPACE, enrolled=True)
            with lent.lend(_Subject(lab, plan.pods, cores, agents)):
                yield

    return Suite(name="node", scenarios=_scenarios(lent, plan), build=build)


def _scenarios(lent: Lent[_Subject], plan: Plan) -> list[Scenario]:
    found: list[Scenario] = []

    def add(name: str, rounds: int, round_s: float, measure: Callable[[_Subject], Values]) -> None:
        found.append(
            Scenario(
                name=name,
                peers=(Peer.OURS,),
                rounds=rounds,
                measure=lambda _: measure(lent.now),
                round_s=round_s,
            )
        )

    enrol_s = ENROL_S + plan.pods * ENROL_S_EACH
    add("node/start/cold", plan.start_rounds, 3.2, _Subject.start_cold)
    add("node/start/warm", plan.start_rounds, 1.6, _Subject.start_warm)
    add(f"node/enrol/{plan.pods}-pods", plan.enrol_rounds, enrol_s, _Subject.enrol)
    rest_s = plan.rest_s
    add(f"node/rest/{plan.pods}-pods", 1, rest_s + 0.2, lambda subject: subject.rest(rest_s))
    return found


class _Subject:
    """One node whose agent is started, filled with pods and watched."""

    def __init__(self, lab: Lab, pods: int, cores: Cores, agents: AgentSettings) -> None:
        self._lab = lab
        self._node: Node = lab.node("a")
        self._count = pods
        self._core = cores.far_proxy
        self._settings = agents
        self._pods: list[Pod] = []
        self._enrolments = 0

    def start_cold(self) -> Values:
        """Nothing of the node is there: programs are compiled, a CA is made."""
        self._stop()
        self._node.meshnode("uninstall", "--yes").check()
        return self._timed_start()

    def start_warm(self) -> Values:
        """As after an upgrade or a crash: pins and holder are in place."""
        if self._node.running_agent is None:
            self._start()
        self._stop()
        return self._timed_start()

    def enrol(self) -> Values:
        """All pods appear at once, each with an identity of its own; until all are active."""
        self._ensure_running()
        self._make_pods()
        self._show(0)
        self._wait_active(0)
        self._enrolments += 1
        begin = time.perf_counter()
        self._show(self._count)
        self._wait_active(self._count)
        return {"seconds": time.perf_counter() - begin}

    def rest(self, seconds: float) -> Values:
        """All pods are enrolled and silent."""
        self._ensure_running()
        if not self._enrolments:
            self.enrol()
        cgroups = node_cgroups(self._node)
        wait_quiet(cgroups, deadline_s=10.0)
        before, begin = cpu_seconds(cgroups), time.perf_counter()
        time.sleep(seconds)
        used, elapsed = cpu_seconds(cgroups) - before, time.perf_counter() - begin
        return {
            "resident_mb": resident_bytes(cgroups) / 1e6,
            "cpu_percent": used / elapsed * 100,
        }

    def _start(self) -> None:
        settings = self._settings
        self._node.agent(*settings.argv, ready_within_s=START_S, env=settings.env)

    def _timed_start(self) -> Values:
        begin = time.perf_counter()
        self._start()
        return {"seconds": time.perf_counter() - begin}

    def _stop(self) -> None:
        if self._node.running_agent is not None and self._node.running_agent.running:
            self._node.running_agent.stop()

    def _ensure_running(self) -> None:
        if self._node.running_agent is None or not self._node.running_agent.running:
            self._start()
        pin(node_cgroups(self._node), self._core)

    def _make_pods(self) -> None:
        for number in range(len(self._pods), self._count):
            self._pods.append(self._node.pod(f"p{number}", publish=False))

    def _show(self, count: int) -> None:
        """Show the first `count` pods to the agent, under new service accounts each time."""
        if not count:
            self._lab.delete("pods")
            return
        objects: list[KubeObject] = []
        for pod in self._pods[:count]:
            pod.service_account = f"{pod.name}-{self._enrolments}"
            objects += pod.objects()
        self._lab.apply("pods", objects)

    def _wait_active(self, count: int) -> None:
        agent = self._node.running_agent
        assert agent is not None

        def all_active() -> bool:
            status = agent.status()
            assert status is not None, "the admin socket does not answer"
            active = [pod for pod in status.pods if pod.state is PodState.ACTIVE]
            assert len(active) == len(status.pods) == count, f"{len(active)} of {count} active"
            return True

        eventually(all_active, 10.0 + ENROL_S_PER_POD * self._count, f"{count} pods are active")
