"""Minutes of churn with traffic, and minutes without the API server: `python -m tests.kube.soak`.

Two nodes with real agents; pods come and go, most of them asking something of a server that
allows all accounts but one. What is measured of the agents before and after shows leaks. The slow
suite runs the same for seconds (`test_churn`).
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click

from agent.netns import netns_cookie, open_netns
from tests.kube.fake_node import FakeNode, KubePod
from tests.kube.test_enrolment import ASK, PORT, STAY, Cluster, cluster, namespace
from tests.lab import eventually
from tests.lab.system import NETNS_ROOT

DENY = {
    "apiVersion": "meshnode.io/v1alpha1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "no-bad", "namespace": "shop"},
    "spec": {
        "action": "DENY",
        "selector": {"matchLabels": {"app": "server"}},
        "rules": [{"from": [{"source": {"principals": ["*/sa/bad"]}}]}],
    },
}
WAIT_S = 60.0
AT_ONCE = 4
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What one node's mesh takes: agent, holder and workers together, and its maps."""

    resident_mb: float
    descriptors: int
    entries: Mapping[str, int]

    def __str__(self) -> str:
        filled = ", ".join(f"{name} {count}" for name, count in self.entries.items() if count)
        return f"{self.resident_mb:.0f} MB, {self.descriptors} descriptors; {filled}"


def footprint(node: FakeNode) -> Footprint:
    """Measure now."""
    agent = node.node.running_agent
    assert agent is not None
    status = agent.status()
    assert status is not None
    assert status.holder is not None
    pids = [agent.pid, status.holder.pid, *(worker.pid for worker in status.workers)]
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    maps = json.loads(node.node.meshnode("bpf", "maps", "-o", "json").check().stdout)
    return Footprint(
        resident_mb=sum(pages) * _PAGE / 1e6,
        descriptors=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        entries={
            one["name"]: one["entries"] for one in maps["entries"] if one["entries"] is not None
        },
    )


@dataclass(slots=True)
class Churn:
    """Pods that live now, and what was seen of all."""

    cluster: Cluster
    living_at_most: int
    dice: random.Random = field(default_factory=lambda: random.Random(11))
    living: list[KubePod] = field(default_factory=list)
    made: int = 0
    asked: int = 0
    refused: int = 0

    def run(self, seconds: float) -> None:
        """Let pods come and go; raise `AssertionError` for the first wrong answer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step()

    def step(self) -> None:
        """A few pods come; once there are enough, as many others go."""
        on, come = self.cluster, [self._start() for _ in range(AT_ONCE)]
        for name, pod in come:
            eventually(lambda name=name: on.state(name) == "active", WAIT_S, f"{name} is active")  # type: ignore[misc]
            # Whoever says that it is in the mesh is: in its own namespace and no other, and
            # judged from its first connection on.
            assert self._captured(name) == cookie_of(pod), name
            self.ask(pod)
        self.ask(self.dice.choice(self.living))
        while len(self.living) > self.living_at_most:
            on.remove(self.living.pop(self.dice.randrange(len(self.living))))

    def _captured(self, name: str) -> str:
        """The cookie of the namespace that an agent captured for a pod."""
        agents = (node.node.running_agent for node in (self.cluster.a, self.cluster.b))
        found = (agent.status() for agent in agents if agent is not None)
        pods = (pod for status in found if status is not None for pod in status.pods)
        return next(pod.cookie for pod in pods if pod.name == name)

    def _start(self) -> tuple[str, KubePod]:
        self.made += 1
        name, account = f"pod-{self.made}", "bad" if self.made % 3 == 0 else "default"
        node = (self.cluster.a, self.cluster.b)[self.made % 2]
        pod = node.pod("shop", name, account=account)
        self.living.append(pod)
        return name, pod

    def ask(self, pod: KubePod) -> None:
        """Ask the server; only a good account may get an answer."""
        self.asked += 1
        text = f"question-{self.asked}"
        answer = pod.run([sys.executable, "-c", ASK, self.cluster.server.address, str(PORT), text])
        answered = answer.status == 0 and answer.stdout == text
        spec = pod.manifest["spec"]
        assert isinstance(spec, dict)
        is_bad = spec["serviceAccountName"] == "bad"
        self.refused += is_bad
        assert answered is not is_bad, (pod.manifest["metadata"], answer)

    def clear(self) -> None:
        """Let all go, and wait until both agents have forgotten them."""
        while self.living:
            self.cluster.remove(self.living.pop())
        for node in (self.cluster.a, self.cluster.b):
            eventually(lambda node=node: _pods(node) == 1, WAIT_S, "who went is forgotten")  # type: ignore[misc]
            node.node.meshnode("bpf", "diff").check()


def cookie_of(pod: KubePod) -> str:
    """The cookie of the namespace that a pod is in."""
    fd = open_netns(str(NETNS_ROOT / pod.place.netns))
    try:
        return str(netns_cookie(fd))
    finally:
        os.close(fd)


def _pods(node: FakeNode) -> int:
    agent = node.node.running_agent
    status = agent.status() if agent is not None else None
    return len(status.pods) if status is not None else -1


def without_api(on: Cluster, seconds: float) -> tuple[int, int]:
    """Take the API server away for a while. How many questions were answered meanwhile, and how
    many requests came in the ten seconds after it was back."""
    server = on.plane.server
    server.faults.down = True
    on.plane.call(server.drop_watches())
    end, answered = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        answered += 1
        assert on.ask(f"alone-{answered}") == f"alone-{answered}"
        time.sleep(0.5)
    before = len(server.requests)
    server.faults.down = False
    time.sleep(10.0)
    came = len(server.requests) - before
    on.plane.apply(namespace("shop", dataplane="enabled", seen=str(answered)))
    late = on.a.pod("shop", "after-the-gap")
    eventually(lambda: on.state("after-the-gap") == "active", WAIT_S, "new pods are seen again")
    assert on.ask("after", by=late) == "after"
    on.remove(late)
    return answered, came


@click.command()
@click.option("--seconds", default=300.0, show_default=True, help="Of churn.")
@click.option("--living", default=40, show_default=True, help="Pods at a time.")
@click.option("--api-gone", default=600.0, show_default=True, help="Seconds without API server.")
def main(seconds: float, living: int, api_gone: float) -> None:
    """Run both, and print what was seen."""
    with cluster() as on:
        on.plane.apply(namespace("shop", dataplane="enabled"), DENY)
        on.wait_states("active")
        staying = on.client.start([sys.executable, "-c", STAY, on.server.address, str(PORT)])
        churn = Churn(on, living)
        churn.run(10.0)
        churn.clear()
        _show("before", on)
        churn.made = churn.asked = churn.refused = 0
        churn.run(seconds)
        _show(f"after {seconds:.0f} s, {len(churn.living)} pods living", on)
        churn.clear()
        _show("when they are gone", on)
        click.echo(
            f"{churn.made} pods came and went, {churn.made / seconds * 60:.0f} a minute; "
            f"{churn.asked} questions, {churn.refused} of them refused as they should be"
        )
        assert staying.running, "a connection of the beginning has ended"
        if api_gone:
            answered, came = without_api(on, api_gone)
            click.echo(
                f"{api_gone:.0f} s without API server: {answered} questions, all answered; in the "
                f"10 s after, {came} requests of two agents and a controller"
            )
            _show("at the end", on)
            assert staying.running, "a connection of the beginning has ended"
        click.echo("a connection of the beginning lives")


def _show(when: str, on: Cluster) -> None:
    for node in (on.a, on.b):
        click.echo(f"{when}: node {node.node.short_name}: {footprint(node)}")


if __name__ == "__main__":
    main()
