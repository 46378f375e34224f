"""Limits of a waypoint with two worker processes, also when these die."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.lab import eventually
from tests.lab.objects import Json, kube_object
from tests.netns.waypoint.mesh import NAMESPACE, VIP, Shop, shop

pytestmark = [pytest.mark.root, pytest.mark.slow]


def workers(scene: Shop) -> list[int]:
    pid = scene.waypoint.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ready(scene: Shop) -> bool:
    argv = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}"]
    return scene.waypoint_pod.run([*argv, "http://127.0.0.1:15021/healthz"]).stdout == "200"


def statuses(scene: Shop, count: int) -> Counter[str]:
    """Statuses of so many requests, each on a connection of its own."""
    script = f"for i in $(seq {count}); do curl -sS -o /dev/null -w '%{{http_code}}\\n' "
    script += f"--max-time 20 http://{VIP}/; done"
    said = scene.client.run(["sh", "-c", script], timeout_s=60).check().stdout
    return Counter(said.split())


def test_what_is_left_of_a_limit_outlives_the_workers() -> None:
    with shop("shared", lambda _: ("--workers", "2")) as scene:
        eventually(lambda: ready(scene), 60.0, "both workers serve")
        spec: dict[str, Json] = {
            "targetRefs": [{"kind": "Service", "name": "web"}],
            "rateLimits": [{"requests": 10, "per": "1h"}],
            "limits": {"maxRequests": 50},
        }
        kind = "TrafficPolicy"
        scene.apply(
            "traffic",
            kube_object("meshnode.io/v1alpha1", kind, "traffic", namespace=NAMESPACE, spec=spec),
        )
        assert statuses(scene, 6) == Counter({"200": 6})
        old = workers(scene)
        assert len(old) == 2
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        eventually(
            lambda: (
                len(workers(scene)) == 2 and not set(workers(scene)) & set(old) and ready(scene)
            ),
            60.0,
            "two other workers serve",
        )
        # A tunnel that was lost may cost a request, which then takes nothing of the limit.
        found: list[str] = []
        while found.count("429") < 3 and len(found) < 60:
            found += statuses(scene, 1)
        assert found.count("200") == 4
        assert found.count("429") == 3
