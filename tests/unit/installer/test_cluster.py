"""Upgrade and removal, against an API server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from click.testing import CliRunner, Result

from agent.cli.install import install, upgrade
from controller.waypoints.manifests import MANAGED_BY, MANAGER
from installer import parts
from installer.live import (
    PLURALS,
    differences,
    find_made,
    find_ours,
    key_of,
    recorded_values,
)
from installer.marks import AT_ONCE, take_marks_off
from installer.remove import CLEANUP, Removal
from installer.render import manifests
from installer.settings import defaults
from installer.values import Given
from mesh.errors import ConfigError
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.transport import KubeApi
from tests.support.kube_api import KubeApiServer

NAMESPACE = "meshnode-system"


def serve_all(server: KubeApiServer) -> None:
    """Every kind that is installed."""
    for (version, kind), plural in PLURALS.items():
        group = version.rpartition("/")[0]
        name = f"{plural}.{group}" if group else plural
        if name not in server.store.collections:
            server.store.serve(name, kind, version)


async def installed(server: KubeApiServer, values: Given) -> None:
    serve_all(server)
    for manifest in manifests(values):
        await server.apply(dict(manifest))


def test_what_was_just_installed_shows_no_difference() -> None:
    async def run() -> str:
        server = KubeApiServer()
        async with server.running(), KubeApi(server.access) as api:
            await installed(server, Given())
            # The server adds what nobody wrote.
            agents = dict(manifests(Given())[-1])
            await server.apply({**agents, "status": {"numberReady": 2}})
            return differences(await find_ours(api, NAMESPACE), manifests(Given()))

    assert asyncio.run(run()) == ""


def test_an_upgrade_shows_what_changes_and_what_is_left_over() -> None:
    async def run() -> str:
        server = KubeApiServer()
        async with server.running(), KubeApi(server.access) as api:
            await installed(server, Given())
            live = await find_ours(api, NAMESPACE)
            values = recorded_values(live, "here")
            assert values == defaults()
            values |= {"image.tag": "new", "networkPolicy.enabled": False}
            return differences(live, manifests(Given(values=values)))

    text = asyncio.run(run())
    assert "+        image: meshnode:new" in text
    assert "NetworkPolicy meshnode-system/meshnode-controller is not part of it any more" in text


class _Kubelets:
    """Ends the pods of deleted daemon sets, and reports the others' ready."""

    def __init__(self, server: KubeApiServer, *, healthy: bool = True) -> None:
        self._server = server
        self._healthy = healthy
        self.order: list[str] = []

    async def run(self) -> None:
        sets = "daemonsets.apps"
        while True:
            present = self._server.store.collection(sets).objects
            for namespace, name in list(present):
                body = self._server.store.get(sets, (namespace, name))
                if name == CLEANUP and "status" not in body:
                    self.order.append("cleaned" if self._healthy else "stuck")
                    status = {"desiredNumberScheduled": 2, "observedGeneration": 1}
                    status["numberReady"] = 2 if self._healthy else 1
                    self._server.store.update(
                        sets, (namespace, name), {**body, "status": status}, status=True
                    )
            if (NAMESPACE, "meshnode-agent") not in present:
                for key in list(self._server.store.collection("pods").objects):
                    self._server.store.delete("pods", key)
                    self.order.append("agent ended")
            await asyncio.sleep(0.01)


def waypoint() -> Mapping[str, object]:
    """As the controller makes it."""
    metadata = {"name": "gate", "namespace": "shop", "labels": {MANAGED_BY: MANAGER}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {}}


def roots(namespace: str) -> Mapping[str, object]:
    metadata = {"name": "meshnode-ca-root", "namespace": namespace, "labels": {MANAGED_BY: MANAGER}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}}


def agent_pod() -> Mapping[str, object]:
    labels = {"app.kubernetes.io/name": "meshnode-agent"}
    metadata = {"name": "agent-1", "namespace": NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}}


def captured_pod(name: str) -> Mapping[str, object]:
    marks = {"meshnode.io/enrolment": "active", "team": "shop"}
    metadata = {"name": name, "namespace": "shop", "annotations": marks}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}}


def test_no_pod_says_that_it_is_captured_once_all_is_removed() -> None:
    async def run() -> None:
        server = KubeApiServer()
        names = [f"pod-{number}" for number in range(AT_ONCE + 3)]
        async with server.running(), KubeApi(server.access) as api:
            await server.apply(*map(captured_pod, names), agent_pod())
            assert await take_marks_off(api) == len(names)
            assert await take_marks_off(api) == 0
            for name in names:
                found = server.store.get("pods", ("shop", name))["metadata"]
                assert isinstance(found, dict)
                assert found["annotations"] == {"team": "shop"}

    asyncio.run(run())


async def removal(*, with_kinds: bool, healthy: bool = True) -> tuple[list[str], set[str]]:
    server = KubeApiServer()
    async with server.running(), KubeApi(server.access) as api:
        await installed(server, Given())
        await server.apply(agent_pod(), waypoint(), roots("shop"), roots("other"))
        kubelets = _Kubelets(server, healthy=healthy)
        said: list[str] = []
        async with asyncio.TaskGroup() as group:
            running = group.create_task(kubelets.run())
            made = Removal(api, Given(), said.append, poll_s=0.02, deadline_s=30 if healthy else 1)
            try:
                await made.run(with_kinds=with_kinds)
            except KubeError as error:
                said.append(str(error))
            running.cancel()
        found = [*await find_ours(api, NAMESPACE), *await find_made(api)]
        left = {str(key_of(one)) for one in found}
        return [*kubelets.order, *said], left


def test_a_removal_cleans_every_node_before_the_rest_goes() -> None:
    events, left = asyncio.run(removal(with_kinds=False))
    assert events.index("agent ended") < events.index("cleaned")
    assert "2 of 2 nodes are clean" in events
    assert left
    assert all(name.startswith("CustomResourceDefinition ") for name in left)


def test_what_the_controller_makes_is_found_by_its_label() -> None:
    assert (parts.MANAGED_BY, parts.CONTROLLER) == (MANAGED_BY, MANAGER)


def test_kinds_go_only_when_asked_for() -> None:
    _, left = asyncio.run(removal(with_kinds=True))
    assert left == set()


def test_a_node_that_cannot_be_cleaned_keeps_everything_else() -> None:
    events, left = asyncio.run(removal(with_kinds=True, healthy=False))
    assert "stuck" in events
    assert any("not every node could be cleaned" in text for text in events)
    assert f"ServiceAccount {NAMESPACE}/meshnode-agent" in left


# -- the commands ---------------------------------------------------------------------------------


def run(command: object, *arguments: str) -> Result:
    import click

    assert isinstance(command, click.Command)
    return CliRunner().invoke(command, list(arguments))


def documents(text: str) -> Sequence[Mapping[str, object]]:
    return list(yaml.safe_load_all(text))


def test_install_prints_the_namespace_first(tmp_path: Path) -> None:
    values = tmp_path / "v.yaml"
    values.write_text("agent: {workers: 3}\n")
    done = run(install, "--namespace=mesh", f"--values={values}", "--set=agent.logLevel=debug")
    assert done.exit_code == 0
    first, *rest = documents(done.output)
    assert first["kind"] == "Namespace"
    namespaces = {
        item["namespace"]
        for one in rest
        if isinstance(item := one["metadata"], dict) and "namespace" in item
    }
    assert namespaces == {"mesh"}
    assert "--workers=3" in done.output
    assert "--log-level=debug" in done.output


def test_upgrade_starts_from_the_values_of_a_former_render(tmp_path: Path) -> None:
    former = tmp_path / "former.yaml"
    former.write_text(run(install, "--set=agent.workers=5", "--set=image.tag=old").output)
    done = run(upgrade, f"--from={former}")
    assert "--workers=5" in done.output
    assert f"meshnode:{defaults()['image.tag']}" in done.output
    same = run(upgrade, f"--from={former}", "--dry-run", "--set=image.tag=old")
    assert (same.exit_code, same.output) == (0, "nothing would change\n")
    other = run(upgrade, f"--from={former}", "--dry-run")
    assert other.exit_code == 5
    assert "-        image: meshnode:old" in other.output


def test_upgrade_says_what_to_do_where_nothing_was_installed(tmp_path: Path) -> None:
    former = tmp_path / "former.yaml"
    former.write_text("kind: ConfigMap\n")
    done = run(upgrade, f"--from={former}")
    assert isinstance(done.exception, ConfigError)
    assert "meshnode install | kubectl apply" in str(done.exception)
    missing = run(upgrade, "--from=/nonexistent")
    assert "cannot be read" in str(missing.exception)
