"""Two nodes with agents, and pods whose application is `apps/serve.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from agent.admin.view import NodeStatus
from tests.lab import Agent, Lab, Node, Pod, Process, eventually
from tests.lab.objects import KubeObject
from tests.netns.mesh.apps.serve import SPEAK_FIRST

APPS = Path(__file__).with_name("apps")
SERVE, DIAL = APPS / "serve.py", APPS / "dial.py"
PYTHON = (sys.executable, "-I", "-S")
OUTSIDE = "outside"
"""A namespace that is not enrolled."""

Answer: TypeAlias = Mapping[str, object]
Fields: TypeAlias = Mapping[str, object]


@dataclass(slots=True, kw_only=True)
class Mesh:
    """A running mesh.

    `client` and `near` are on node `a`, `far` is on node `b`; `outsider` is on `a` and `stranger`
    on `b`, both of a namespace that is not enrolled.
    """

    lab: Lab
    a: Node
    b: Node
    apps: dict[str, Process] = field(default_factory=dict)
    _forgotten: dict[Agent, int] = field(default_factory=dict)
    _at_last_dial: dict[Agent, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Pod:
        return next(node.pods[name] for node in (self.a, self.b) if name in node.pods)

    @property
    def agents(self) -> list[Agent]:
        return self.lab.agents

    def add_pod(
        self,
        node: Node,
        name: str,
        *,
        namespace: str = "default",
        serving: bool = True,
        **more: str,
    ) -> Pod:
        """A pod with its application; `more` are its labels besides `app: NAME`.

        Agents may know of it later: `lab.settle()`.
        """
        pod = node.pod(name, namespace=namespace, labels={"app": name, **more})
        if serving:
            self.start_app(pod)
        return pod

    def start_app(self, pod: Pod) -> Process:
        """Start the application of a pod."""
        app = self.apps[pod.name] = pod.start([*PYTHON, str(SERVE), pod.name])
        app.wait_output("serving")
        return app

    def restart_app(self, name: str) -> None:
        """Start the application of a pod afresh."""
        self.apps[name].kill()
        self.start_app(self[name])

    # -- traffic --------------------------------------------------------------------------------

    def dial(
        self,
        src: str,
        dst: str,
        port: int = SPEAK_FIRST,
        *,
        kind: str = "blocking",
        timeout_s: float = 60.0,
        **options: str | int,
    ) -> Answer:
        """Run a client to its end; `dst` is a pod's name (its IPv4 address) or an address."""
        self._at_last_dial = self._counts()
        argv = self._dial_argv(dst, port, kind, options)
        return last_answer(self[src].run(argv, timeout_s=timeout_s).check().stdout)

    def dial_all(
        self, routes: Sequence[tuple[str, str]], port: int = SPEAK_FIRST
    ) -> Mapping[tuple[str, str], Answer]:
        """Run a client for each pair of pods side by side; answers by pair."""
        self._at_last_dial = self._counts()
        started = {route: self.start_dial(*route, port) for route in routes}
        return {route: last_answer(one.wait().check().stdout) for route, one in started.items()}

    def start_dial(
        self,
        src: str,
        dst: str,
        port: int = SPEAK_FIRST,
        *,
        kind: str = "blocking",
        **options: str | int,
    ) -> Process:
        """Start a client."""
        return self[src].start(self._dial_argv(dst, port, kind, options))

    def open(self, src: str, dst: str, port: int = SPEAK_FIRST) -> Process:
        """A connection that is up and stays, until somebody ends it."""
        process = self.start_dial(src, dst, port, do="wait_end")
        process.wait_output('"up"')
        return process

    def _dial_argv(
        self, dst: str, port: int, kind: str, options: Mapping[str, str | int]
    ) -> list[str]:
        address = dst if "." in dst or ":" in dst else self[dst].address4
        extra = [f"{name}={value}" for name, value in options.items()]
        return [*PYTHON, str(DIAL), kind, address, str(port), *extra]

    # -- objects --------------------------------------------------------------------------------

    def apply(self, name: str, content: str | KubeObject | Sequence[KubeObject]) -> None:
        """Change the mesh, and wait until the change is in force on both nodes."""
        with self.changing():
            self.lab.apply(name, content)

    def delete(self, name: str) -> None:
        """Delete what `apply(name, ...)` wrote, and wait likewise."""
        with self.changing():
            self.lab.delete(name)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Wait at the end of the block until both nodes hold the one change made in it."""
        with self.lab.changing():
            yield

    # -- what was reported ----------------------------------------------------------------------

    def records(self, **wanted: object) -> list[Fields]:
        """Access log records of both nodes whose fields are as wanted (`src_addr` is `src.addr`).

        `port` is the source's, of what was reported since the last `dial()`: pods take ports each
        for itself, so one of an earlier connection, or of another pod, may come again. `mentions`
        stands anywhere in policy, audited, dry_run or error.
        """
        since = self._forgotten if wanted.get("port") is None else self._at_last_dial
        found = [
            record for agent in self.agents for record in agent.access_log()[since.get(agent, 0) :]
        ]
        return [record for record in found if _is_wanted(record, dict(wanted))]

    def forget_records(self) -> None:
        """Leave out what was reported so far."""
        self._forgotten = self._counts()

    def _counts(self) -> dict[Agent, int]:
        return {agent: len(agent.access_log()) for agent in self.agents}

    def record(self, **wanted: object) -> Fields:
        """The one record that is as wanted, once it is there."""

        def one() -> Fields | None:
            found = self.records(**wanted)
            assert len(found) == 1, f"{len(found)} records of {wanted}: {found}"
            return found[0]

        record = eventually(one, 30.0, f"a record of {wanted}")
        assert record is not None
        return record

    def next_record(self, before: int, **wanted: object) -> Fields:
        """The record as wanted that comes after the first `before` ones."""

        def newer() -> list[Fields]:
            return self.records(**wanted)[before:]

        return eventually(newer, 30.0, f"another record of {wanted}")[0]


def _is_wanted(record: Fields, wanted: dict[str, object]) -> bool:
    port = wanted.pop("port", None)
    mentions = str(wanted.pop("mentions", ""))
    texts = " ".join(str(record.get(n, "")) for n in ("policy", "audited", "dry_run", "error"))
    return (
        (port is None or str(record.get("src.addr", "")).endswith(f":{port}"))
        and mentions in texts
        and all(
            record.get(name.replace("_", ".", 1) if name[:3] in ("src", "dst") else name) == value
            for name, value in wanted.items()
        )
    )


def last_answer(output: str) -> Answer:
    """The last line that a client printed."""
    answer: object = json.loads(output.strip().splitlines()[-1])
    assert isinstance(answer, dict), output
    return answer


def own_port(answer: Answer) -> int:
    """Source port of a finished client."""
    own = answer["own"]
    assert isinstance(own, list), answer
    return int(own[1])


def status(agent: Agent) -> NodeStatus:
    """What an agent says of itself; it must be running."""
    found = agent.status()
    assert found is not None, agent.log_tail()
    return found


@contextmanager
def running_mesh(purpose: str, *options: str) -> Iterator[Mesh]:
    """Build the standard mesh, start both agents, remove everything at the end."""
    with Lab(f"mesh-{purpose}") as lab:
        mesh = Mesh(lab=lab, a=lab.node("a"), b=lab.node("b"))
        lab.namespace("default", enrolled=True)
        lab.namespace(OUTSIDE, enrolled=False)
        for node, name in ((mesh.a, "client"), (mesh.a, "near"), (mesh.b, "far")):
            mesh.add_pod(node, name)
        for node, name in ((mesh.a, "outsider"), (mesh.b, "stranger")):
            mesh.add_pod(node, name, namespace=OUTSIDE)
        lab.start_agents("--access-log", "json", *options)
        yield mesh
