"""TrafficPolicy from a YAML file to what callers see: real agents, tunnels and processes."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.lab import eventually
from tests.lab.objects import Json, kube_object
from tests.netns.waypoint.mesh import APP_PORT, NAMESPACE, PORT, VIP, Shop, shop

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def scene() -> Iterator[Shop]:
    with shop("policy") as running:
        yield running


@contextmanager
def policy(scene: Shop, **parts: Json) -> Iterator[None]:
    """A TrafficPolicy of the service, or of what it selects, while the block runs."""
    target: Json = [{"kind": "Service", "name": "web"}]
    spec: dict[str, Json] = parts if "selector" in parts else {"targetRefs": target, **parts}
    kind = "TrafficPolicy"
    scene.apply(
        "traffic",
        kube_object("meshnode.io/v1alpha1", kind, "traffic", namespace=NAMESPACE, spec=spec),
    )
    try:
        yield
    finally:
        scene.delete("traffic")


def many(scene: Shop, count: int, *arguments: str, path: str = "/") -> Counter[str]:
    """Bodies of so many requests on one connection."""
    script = f"for i in $(seq {count}); do printf 'url=http://{VIP}{path}\\n'; done"
    script += " | curl -sS -K - -w '\\n' --max-time 60 " + " ".join(arguments)
    said = scene.client.run(["sh", "-c", script], timeout_s=40).check().stdout
    return Counter(line for line in said.split("\n") if line)


def clusters(scene: Shop) -> list[dict[str, Json]]:
    """What the worker says of services under a policy."""
    argv = ["curl", "-sS", "http://127.0.0.1:15021/clusters"]
    (worker,) = json.loads(scene.waypoint_pod.run(argv).check().stdout)
    found: list[dict[str, Json]] = worker["stats"]["clusters"]
    return found


def metric(scene: Shop, line: str) -> Callable[[], bool]:
    """Whether a line of the metrics begins like this."""
    argv = ["curl", "-sS", "http://127.0.0.1:15021/metrics"]
    return lambda: line in scene.waypoint_pod.run(argv).check().stdout


def test_balancing_by_turns_and_by_hash(scene: Shop) -> None:
    with policy(scene, loadBalancing={"algorithm": "RoundRobin"}):
        assert many(scene, 20) == Counter({"v1": 10, "v2": 10})
        eventually(lambda: len(clusters(scene)) == 1, 30.0, "the worker has told of it")
        (state,) = clusters(scene)
        assert (state["service"], state["algorithm"]) == (f"{NAMESPACE}/web", "RoundRobin")
        assert state["policies"] == {"load_balancing": f"{NAMESPACE}/traffic"}
    with policy(scene, loadBalancing={"algorithm": "Maglev", "hash": [{"header": "x-user"}]}):
        homes = {user: many(scene, 5, f"-H 'x-user: {user}'") for user in "abcdefgh"}
        assert all(len(home) == 1 for home in homes.values())
        assert len({version for home in homes.values() for version in home}) == 2


def test_a_server_that_fails_is_left_out_and_comes_back(scene: Shop) -> None:
    judge: Json = {"consecutiveFailures": 3, "baseEjection": "2s", "jitter": 0}
    turns: Json = {"algorithm": "RoundRobin"}
    with policy(scene, outlierDetection=judge, loadBalancing=turns):
        while scene.get("/fail/3", host="10.96.7.2") != "200 armed":
            pass
        said = many(scene, 20, path="/flaky")
        assert said["busy"] == 3
        assert said["v2"] >= 13

        def states() -> Counter[str]:
            found = clusters(scene)
            endpoints = found[0]["endpoints"] if found else []
            assert isinstance(endpoints, list)
            return Counter(str(each["state"]) for each in endpoints if isinstance(each, dict))

        eventually(lambda: states()["healthy"] == 1, 30.0, "one endpoint is out")
        line = f'meshnode_waypoint_ejections_total{{service="{NAMESPACE}/web"}} 1.0'
        eventually(metric(scene, line), 30.0, "the ejection is counted")
        eventually(lambda: many(scene, 4)["v1"] > 0, 30.0, "a probe brought it back")
        eventually(lambda: states()["healthy"] == 2, 30.0, "all are well")


def test_a_caller_has_its_rate(scene: Shop) -> None:
    limit: Json = [{"requests": 5, "per": "1h", "by": "Identity", "name": "few"}]
    with policy(scene, rateLimits=limit):
        said = many(scene, 12, "-w ' %{http_code}\\n'")
        statuses = Counter(line.split()[-1] for line in said.elements())
        assert statuses == Counter({"200": 5, "429": 7})
        head = scene.curl("-i", f"http://{VIP}/").check().stdout.lower()
        assert "retry-after: " in head
        wanted = f"rate_limited[{NAMESPACE}/traffic/few]"
        eventually(lambda: wanted in scene.waypoint.output, 30.0, "the log names the limit")


def test_faults_reach_those_who_ask_for_them(scene: Shop) -> None:
    fault: Json = {
        "headers": [{"name": "x-fault", "value": "please"}],
        "delay": {"duration": "500ms", "percent": 100},
        "abort": {"httpStatus": 503, "percent": 100},
    }
    with policy(scene, faults=[fault]):
        began = time.monotonic()
        assert scene.get("/", "x-fault: please").startswith("503 ")
        assert time.monotonic() - began >= 0.5
        assert scene.get("/").startswith("200 v")
        eventually(lambda: "fault_injected" in scene.waypoint.output, 30.0, "the log names it")


def test_a_retry_hides_what_fails_and_a_limit_refuses(scene: Shop) -> None:
    with policy(scene, retry={"attempts": 2, "on": ["GatewayError"]}):
        assert scene.get("/fail/2", host="10.96.7.2") == "200 armed"
        assert set(many(scene, 20, path="/flaky")) == {"v1", "v2"}
    with policy(scene, limits={"maxRequests": 1}):
        url = f"http://{VIP}/slow/2"
        script = f"curl -sS {url} & sleep 0.7; curl -sS -w ' %{{http_code}}' http://{VIP}/; wait"
        said = scene.client.run(["sh", "-c", script], timeout_s=20).check().stdout
        assert "503" in said


def test_sessions_and_bandwidth(scene: Shop) -> None:
    with policy(scene, sessionPersistence={"sessionName": "sid"}):
        head = scene.curl("-i", f"http://{VIP}/").check().stdout
        cookie = next(line for line in head.splitlines() if line.lower().startswith("set-cookie"))
        value = cookie.split(":", 1)[1].split(";")[0].strip()
        assert len(many(scene, 12, f"-H 'cookie: {value}'")) == 1
    with policy(scene, bandwidth={"response": "2Mi"}):
        argv = ["-o", "/dev/null", "-w", "%{size_download} %{time_total}", f"http://{VIP}/blob/4"]
        size, took = scene.curl(*argv).check().stdout.split()
        assert int(size) == 4 << 20
        assert float(took) >= 1.5  # two seconds, but for what is read last


ODD = """
import socket, sys
for _ in range(int(sys.argv[3])):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as sock:
        sock.sendall(b"\\0\\1\\2\\3\\n\\n")
        try:
            print(sock.recv(100)[:8].decode() or "closed")
        except ConnectionResetError:
            print("closed")
"""


def odd(scene: Shop, address: str, port: int, count: int) -> Counter[str]:
    """How connections that are no HTTP begin, one after another."""
    argv = ["python3", "-c", ODD, address, str(port), str(count)]
    return Counter(scene.client.run(argv, timeout_s=60).check().stdout.split("\n")[:-1])


def test_a_pod_that_is_dialled_has_limits_of_its_own(scene: Shop) -> None:
    one, other = (f"{pod.address4}:{APP_PORT}" for pod in (scene.v1, scene.v2))
    assert scene.get("/", host=one) == "200 v1"
    few: Json = [{"requests": 2, "per": "1h", "name": "few"}]
    with policy(scene, selector={"matchLabels": {"app": "web"}}, rateLimits=few):
        said = [scene.get("/", host=host).split()[0] for host in (one, one, one, other, VIP)]
        assert said == ["200", "200", "429", "200", "200"]
        eventually(
            lambda: (
                [state["service"] for state in clusters(scene)]
                == [f"pod/{NAMESPACE}/web-v1", f"pod/{NAMESPACE}/web-v2"]
            ),
            10.0,
            "the worker has told of both pods",
        )
    assert scene.get("/", host=one) == "200 v1"


def test_connections_that_are_no_http_come_at_a_rate(scene: Shop) -> None:
    rate: Json = [{"connections": 3, "per": "1h", "by": "Identity", "name": "calls"}]
    with policy(scene, connectionRateLimits=rate):
        assert odd(scene, VIP, PORT, 5) == Counter({"HTTP/1.0": 3, "closed": 2})
        assert scene.get("/").startswith("200 v")  # requests have limits of their own
        wanted = f"rate_limited[{NAMESPACE}/traffic/calls]"
        eventually(lambda: wanted in scene.waypoint.output, 10.0, "the log names the limit")
        name = "meshnode_waypoint_rate_limit_connections_total"
        label = f'{{limit="{NAMESPACE}/traffic/calls",outcome="limited"}}'
        eventually(metric(scene, f"{name}{label} 2.0"), 10.0, "refusals are counted")
        address = scene.v1.address4
        assert odd(scene, address, APP_PORT, 5) == Counter({"HTTP/1.0": 5})
    with policy(scene, selector={"matchLabels": {"app": "web"}}, connectionRateLimits=rate):
        assert odd(scene, address, APP_PORT, 5) == Counter({"HTTP/1.0": 3, "closed": 2})
