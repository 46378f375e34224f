"""The roles allow what the code asks for, and not a word more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from installer.parts import AGENT, CONTROLLER
from installer.rbac import WAYPOINT, manifests
from mesh.sources.kubernetes.resources import RESOURCES
from mesh.sources.kubernetes.source import open_kubernetes
from tests.kube.led import CLASS, SERVICE, gateway, route
from tests.kube.replicas import TIMEOUT_S, stage
from tests.kube.test_token_review import TOKEN, ask
from tests.support.kube_api import KubeApiServer
from tests.support.processes import free_port

Permission = tuple[str, str, str]
"""Group, plural, verb."""
ISTIO = ("authorizationpolicies", "peerauthentications", "requestauthentications")
POLICY = {
    "apiVersion": "meshnode.io/v1alpha1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "p", "namespace": "shop"},
    "spec": {},
}


def allowed(kind: str, name: str) -> set[Permission]:
    """Everything that a role allows."""
    [role] = [m for m in manifests() if m["kind"] == kind and _name(m) == name]
    rules = role["rules"]
    assert isinstance(rules, list)
    return {
        (group, plural, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for plural in rule["resources"]
        for verb in rule["verbs"]
    }


def _name(manifest: Mapping[str, object]) -> object:
    metadata = manifest["metadata"]
    assert isinstance(metadata, dict)
    return metadata["name"]


_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def permissions_of(requests: Iterable[str]) -> set[Permission]:
    """What a server would have to allow for these requests."""
    found: set[Permission] = set()
    for line in requests:
        method, _, target = line.partition(" ")
        path, _, query = target.partition("?")
        parts = path.strip("/").split("/")
        group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
        if rest[0] == "namespaces" and len(rest) > 2:
            rest = rest[2:]
        plural = f"{rest[0]}/{rest[2]}" if len(rest) > 2 else rest[0]
        read = "get" if len(rest) > 1 else "watch" if "watch=1" in query else "list"
        found.add((group, plural, _VERBS.get(method, read)))
    return found


def test_an_agent_may_do_what_it_does_and_nothing_else() -> None:
    async def run() -> list[str]:
        server = KubeApiServer()
        for resource in RESOURCES:
            if resource.name not in server.store.collections:
                server.store.serve(resource.name, resource.kind, *resource.api_versions)
        async with server.running(), open_kubernetes(server.access) as source:
            async with asyncio.timeout(10):
                await anext(source.watch())
                await server.wait_watched(len(RESOURCES))
            return server.requests

    reading = permissions_of(asyncio.run(run()))
    assert reading == allowed("ClusterRole", WAYPOINT)
    # tests/unit/agent/kubernetes shows the annotation.
    assert reading | {("", "pods/status", "patch")} == allowed("ClusterRole", AGENT)


def test_the_controller_may_do_what_it_does(tmp_path: Path) -> None:
    requests: list[str] = []

    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), stage(tmp_path) as on:
            requests_of = on.server.requests
            await on.server.apply(CLASS, gateway(max_replicas="3"), SERVICE, route(), POLICY)
            one = await on.start("one", webhook_port=free_port(), waypoint_image="meshnode:1")
            assert await ask(one.path, one.port, "here", TOKEN) == 200
            for path in (
                "autoscalers/wp",
                "gateways/wp/status",
                "httproutes/r/status",
                "policies/p/status",
            ):
                await on.until(lambda path=path: bool(on.server.asked(path)))  # type: ignore[misc]
            await on.server.apply(gateway(class_name="other"))
            await on.until(lambda: on.server.asked("DELETE /api/v1/namespaces/shop/servicea") > 0)
            requests.extend(requests_of)

    asyncio.run(run())
    may = allowed("ClusterRole", CONTROLLER) | allowed("Role", CONTROLLER)
    assert permissions_of(requests) <= may
    # What was not seen here is the same for other kinds, or needs a rare moment (a rotation).
    unseen = {
        (group, plural, verb)
        for group, plural, verb in may - permissions_of(requests)
        if (group, plural) not in _LIKE_OTHERS and verb not in ("create", "bind")
    }
    assert unseen == set()


_LIKE_OTHERS = (
    {
        ("gateway.networking.k8s.io", f"{plural}{part}")
        for plural in ("grpcroutes", "tlsroutes", "tcproutes")
        for part in ("", "/status")
    }
    | {
        ("meshnode.io", f"{plural}{part}")
        for plural in ("peerauthentications", "requestauthentications", "trafficpolicies")
        for part in ("", "/status")
    }
    | {("security.istio.io", f"{plural}{part}") for plural in ISTIO for part in ("", "/status")}
    | {("", "secrets")}
)


def test_secrets_are_the_controllers_and_only_its_own() -> None:
    for manifest in manifests():
        rules = manifest.get("rules", [])
        assert isinstance(rules, list)
        for rule in rules:
            assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
            if "secrets" in rule["resources"]:
                assert manifest["kind"] == "Role"
                assert rule["verbs"] == ["create"] or rule["resourceNames"] == ["meshnode-ca"]
