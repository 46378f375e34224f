"""The roles allow what the code asks for, and not a word more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from controller.kubernetes.token_review import Account, TokenReviewAuthenticator
from installer.parts import AGENT, CONTROLLER
from installer.rbac import NAMESPACE, manifests
from mesh.sources.kubernetes.resources import RESOURCES
from mesh.sources.kubernetes.source import open_kubernetes
from mesh.sources.kubernetes.transport import KubeApi
from tests.kube.test_token_review import TOKEN, agent_pod, review
from tests.support.kube_api import KubeApiServer

Permission = tuple[str, str, str]
"""Group, plural, verb."""


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
        one = "create" if method == "POST" else "get" if len(rest) > 1 else "list"
        found.add((group, rest[0], "watch" if "watch=1" in query else one))
    return found


def test_an_agent_may_do_what_it_does_and_nothing_else() -> None:
    async def run() -> list[str]:
        server = KubeApiServer()
        for resource in RESOURCES:
            if resource.name not in server.store.collections:
                server.store.serve(resource.name, resource.kind, *resource.api_versions)
        async with server.running(), open_kubernetes(server.configuration) as source:
            async with asyncio.timeout(10):
                await anext(source.watch())
                await server.wait_watched(len(RESOURCES))
            return server.requests

    assert permissions_of(asyncio.run(run())) == allowed("ClusterRole", AGENT)


def test_the_controller_checks_tokens_and_reads_agents_besides() -> None:
    async def run() -> list[str]:
        server = KubeApiServer()
        server.reviews[TOKEN] = review()
        server.store.create("pods", agent_pod())
        async with server.running(), KubeApi(server.configuration) as api:
            account = Account(namespace=NAMESPACE, name=AGENT)
            await TokenReviewAuthenticator(api, account, now=lambda: 0.0).authenticate(TOKEN)
            return server.requests

    reading = allowed("ClusterRole", AGENT)
    more = allowed("ClusterRole", CONTROLLER) - reading | allowed("Role", CONTROLLER)
    assert permissions_of(asyncio.run(run())) == more
    assert reading < allowed("ClusterRole", CONTROLLER)
