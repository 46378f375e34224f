"""Tokens with fetched keys, external authorizers, traces and taps through a real waypoint."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import Lab, Process, eventually
from tests.lab.objects import POLICY_GROUP, Json, KubeObject, kube_object
from tests.netns.waypoint.mesh import APP_PORT, NAMESPACE, PORT, VIP, Shop, service, shop
from tests.unit.mesh.jwt import issuer

OUTSIDE = Path(__file__).with_name("outside.py")
TOOLS_VIP = "10.96.7.20"
ISSUER = "http://issuer.test"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TARGET: Json = [{"group": "", "kind": "Service", "name": "web"}]
pytestmark = [pytest.mark.root, pytest.mark.slow]


@dataclass(slots=True)
class Scene:
    """The shop, and a server outside of it at `url`."""

    shop: Shop
    tools: Process
    url: str

    def said(self, kind: str) -> list[dict[str, str]]:
        """What the server outside was asked."""
        lines = [line for line in self.tools.output.splitlines() if line.startswith("{")]
        return [found for line in lines if (found := json.loads(line))["kind"] == kind]

    def apply(self, name: str, *objects: KubeObject) -> None:
        self.shop.apply(name, list(objects))

    def delete(self, name: str) -> None:
        self.shop.delete(name)


def add_tools(lab: Lab) -> Sequence[str]:
    """A pod for the server outside; what the waypoint is told of it."""
    labels = {"app": "tools"}
    pod = lab.nodes["node-a"].pod("tools", namespace=NAMESPACE, labels=labels)
    url = f"http://{pod.address4}:{APP_PORT}"
    return ("--otlp-endpoint", url, "--trace-sampling", "0")


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with shop("security", add_tools) as running:
        lab = running.lab
        pod = lab.nodes["node-a"].pods["tools"]
        url = f"http://{pod.address4}:{APP_PORT}"
        tools_service = service("tools", TOOLS_VIP, {"app": "tools"})
        metadata = tools_service["metadata"]
        assert isinstance(metadata, dict)
        metadata.pop("labels")  # no waypoint before it
        keys = lab.directory / "jwks.json"
        keys.write_bytes(issuer.jwks(issuer.signer("ES256", "one")))
        argv = [sys.executable, str(OUTSIDE), str(APP_PORT), str(keys)]
        tools = pod.start(argv)
        tools.wait_listening(APP_PORT)
        found = Scene(running, tools, url)
        provider: Json = {
            "name": "guard",
            "envoyExtAuthzHttp": {
                "service": f"{NAMESPACE}/tools",
                "port": PORT,
                "pathPrefix": "/check",
                "timeout": "5s",
                "includeRequestHeadersInCheck": ["x-ticket"],
                "headersToUpstreamOnAllow": ["x-user"],
            },
        }
        found.apply(
            "tools-service",
            tools_service,
            kube_object(
                POLICY_GROUP, "MeshConfig", "mesh", spec={"extensionProviders": [provider]}
            ),
        )
        yield found


def authentication(url: str) -> KubeObject:
    rule: Json = {
        "issuer": ISSUER,
        "jwksUri": f"{url}/certs",
        "outputClaimToHeaders": [{"header": "x-who", "claim": "sub"}],
    }
    return kube_object(
        POLICY_GROUP,
        "RequestAuthentication",
        "tokens",
        namespace=NAMESPACE,
        annotations={"meshnode.io/allow-http-jwks": "true"},
        spec={"targetRefs": TARGET, "jwtRules": [rule]},
    )


def bearer(by: issuer.Signer) -> str:
    claims = issuer.payload(iss=ISSUER, exp=int(time.time()) + 600)
    return f"authorization: Bearer {issuer.token(by, claims)}"


def test_keys_are_fetched_by_the_worker(scene: Scene) -> None:
    scene.apply("jwt", authentication(scene.url))
    good, bad = issuer.signer("ES256", "one"), issuer.signer("ES384", "two")
    answer = scene.shop.get("/headers", bearer(good), "x-who: root")
    assert answer.startswith("200 ")
    assert "x-who: ann" in answer
    assert "root" not in answer
    assert scene.shop.get("/", bearer(bad)).startswith("401 ")
    assert scene.shop.get("/").startswith("200 ")
    assert len(scene.said("certs")) == 1
    wanted = "jwt_unknown_key"
    eventually(lambda: wanted in scene.shop.waypoint.output, 30.0, "the fault is logged")
    scene.delete("jwt")


def test_an_authorizer_in_the_mesh_decides(scene: Scene) -> None:
    spec: dict[str, Json] = {
        "targetRefs": TARGET,
        "action": "CUSTOM",
        "provider": {"name": "guard"},
        "rules": [{"to": [{"operation": {"paths": ["/headers*"]}}]}],
    }
    policy = kube_object(POLICY_GROUP, "AuthorizationPolicy", "ask", namespace=NAMESPACE, spec=spec)
    scene.apply("custom", policy)
    answer = scene.shop.get("/headers", "x-ticket: good")
    assert answer.startswith("200 ")
    assert "x-user: ann" in answer
    assert scene.shop.get("/headers") == "402 no ticket"
    assert scene.shop.get("/").startswith("200 ")
    assert [asked["path"] for asked in scene.said("check")] == ["/check/headers"] * 2
    output = scene.shop.waypoint
    eventually(
        lambda: "ext_authz_denied[AuthorizationPolicy shop/ask rule[0]]" in output.output,
        30.0,
        "the policy is named",
    )
    metrics = scene.shop.waypoint_pod.run(["curl", "-sS", "http://127.0.0.1:15021/metrics"])
    assert 'authorizer_requests_total{outcome="denied",provider="guard"} 1.0' in metrics.stdout
    scene.delete("custom")


def test_a_sampled_request_becomes_a_span(scene: Scene) -> None:
    answer = scene.shop.get("/headers", f"traceparent: 00-{TRACE}-{PARENT}-01")
    child = answer.partition(f"traceparent: 00-{TRACE}-")[2][:16]
    assert child
    assert child != PARENT
    eventually(
        lambda: any(
            (span["trace"], span["parent"], span["id"]) == (TRACE, PARENT, child)
            for span in scene.said("span")
        ),
        30.0,
        "the span is at the collector",
    )
    plain = scene.shop.get("/headers")
    assert plain.partition("traceparent: ")[2].split("\n")[0].endswith("-00")


def test_requests_are_seen_live(scene: Scene) -> None:
    pod = scene.shop.waypoint_pod
    url = "http://127.0.0.1:15021/v1/tap?path=/tapped&header=x-show"
    tap = pod.start(["curl", "-sSN", url])
    hidden = ("x-show: 1", "authorization: Bearer secret")

    def seen() -> bool:
        scene.shop.get("/tapped?token=secret", *hidden)
        scene.shop.get("/other", *hidden)
        return "/tapped" in tap.output

    eventually(seen, 30.0, "the request is shown")
    tap.stop()
    events = [json.loads(line) for line in tap.output.splitlines() if line.startswith("{")]
    assert {event["path"] for event in events} == {"/tapped"}
    assert events[0]["src.workload"] == "client"
    assert events[0]["status"] == 200
    assert "secret" not in tap.output
    bad = pod.run(["curl", "-sS", "http://127.0.0.1:15021/v1/tap?colour=red"])
    assert "unknown filter colour" in bad.stdout


def test_what_is_in_force_is_shown(scene: Scene) -> None:
    assert scene.shop.get("/", host=VIP).startswith("200 ")
    dump = scene.shop.waypoint_pod.run(["curl", "-sS", "http://127.0.0.1:15021/config_dump"])
    found = json.loads(dump.stdout)
    assert found["settings"]["providers"][0]["name"] == "guard"
    assert found["in_force"]["shop/web"]["policies"] == []
