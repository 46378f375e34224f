"""The scene that the command line is tried in: two nodes, a waypoint, one policy that refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.lab import Process
from tests.lab.agent import MESHNODE, MESHNODE_ENVIRONMENT
from tests.lab.objects import POLICY_GROUP, kube_object
from tests.lab.process import Process as LabProcess
from tests.netns.waypoint.mesh import NAMESPACE, PORT, Shop, shop

POLICY = "shop/no-admin"
RULE = f"AuthorizationPolicy {POLICY} rule[1]"


@contextmanager
def shopfront(purpose: str) -> Iterator[Shop]:
    """The scene, after one request that passed and one that was refused."""
    with shop(purpose) as running:
        running.apply(
            "no-admin",
            kube_object(
                POLICY_GROUP,
                "AuthorizationPolicy",
                "no-admin",
                namespace=NAMESPACE,
                spec={
                    "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
                    "action": "DENY",
                    "rules": [
                        {"to": [{"operation": {"paths": ["/secret*"]}}]},
                        {"to": [{"operation": {"paths": ["/admin*"], "methods": ["GET"]}}]},
                    ],
                },
            ),
        )
        running.route(
            "web",
            {
                "name": "all",
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"name": "web-v1", "port": PORT}],
                "timeouts": {"request": "3s"},
            },
        )
        assert running.get("/admin/users").startswith("403")
        assert running.get("/items") == "200 v1"
        yield running


@dataclass(frozen=True, slots=True)
class Typed:
    """What came of a command."""

    arguments: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


class Typist:
    """Types commands as root of the machine; see `tests.netns.cli.typist`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.netns.cli.typist"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **MESHNODE_ENVIRONMENT},
            cwd=MESHNODE_ENVIRONMENT["PYTHONPATH"],
        )

    def __enter__(self) -> Typist:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def __call__(self, *arguments: str) -> Typed:
        """Type one command and wait for its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Typed(arguments, answer["status"], answer["stdout"], answer["stderr"])


def watching(scene: Shop, *arguments: str) -> Process:
    """A command that goes on; the lab ends it."""
    place = scene.lab.nodes["node-a"].place
    log = scene.lab.log_path(arguments[0])
    process = LabProcess(place, [*MESHNODE, *arguments], log, MESHNODE_ENVIRONMENT)
    scene.lab._processes.append(process)
    return process
