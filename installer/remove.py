"""Takes meshnode out of a cluster: first every pod out of the mesh, then our objects.

The agents go; a clean-up pod on every node undoes what outlives an agent on purpose (links, pins,
listeners, routes, the CNI configuration); only when all nodes are clean, the rest goes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence

from installer.agent import CNI_BIN, CNI_CONF, daemon_set
from installer.live import Key, Live, find_made, find_ours, key_of
from installer.marks import take_marks_off
from installer.parts import AGENT, CONTROLLER, labels_of
from installer.values import Given, Manifest
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.resources import collection_path
from mesh.sources.kubernetes.transport import KubeApi

CLEANUP = "meshnode-cleanup"
POLL_S = 1.0
_KEEP_ALWAYS = frozenset({"CustomResourceDefinition"})

Say = Callable[[str], None]


class Removal:
    """One removal.

    Args:
        say: told of every step.
        poll_s: between two looks at the cluster.
        deadline_s: how long nodes have to become clean.
    """

    def __init__(
        self,
        api: KubeApi,
        values: Given,
        say: Say,
        *,
        poll_s: float = POLL_S,
        deadline_s: float = 300.0,
    ) -> None:
        self._api = api
        self._values = values
        self._say = say
        self._poll_s = poll_s
        self._deadline_s = deadline_s

    async def run(self, *, with_kinds: bool) -> list[str]:
        """Remove everything; what, in words. Raises `KubeError`, and then nothing that nodes
        still need is gone: repeat it."""
        removed: list[str] = []
        agents = Key("apps/v1", "DaemonSet", self._values.namespace, AGENT)
        if await self._delete(agents):
            removed.append(str(agents))
        self._say("waiting until the agents have ended")
        await self._until(self._agents_are_gone, "agents are still running")
        await self._clean_nodes()
        marked = await take_marks_off(self._api)
        removed += [f"annotations of {marked} pods"] if marked else []
        # Nobody makes anew what goes now.
        controller = Key("apps/v1", "Deployment", self._values.namespace, CONTROLLER)
        made = map(key_of, await find_made(self._api))
        removed += [str(key) for key in (controller, *made) if await self._delete(key)]
        for live in await find_ours(self._api, self._values.namespace):
            key = key_of(live)
            if key.kind in _KEEP_ALWAYS and not with_kinds:
                continue
            if await self._delete(key):
                removed.append(str(key))
        return removed

    async def _clean_nodes(self) -> None:
        manifest = cleanup_daemon_set(self._values)
        key = key_of(manifest)
        await self._delete(key)  # of a removal that was broken off
        await self._until(lambda: self._is_gone(key), "an earlier clean-up is still there")
        path = collection_path("apps/v1", "daemonsets", self._values.namespace)
        await self._api.request("POST", path, body=json.dumps(manifest).encode())
        self._say("cleaning every node")
        await self._until(
            lambda: self._is_complete(key),
            "not every node could be cleaned: see `kubectl -n "
            f"{self._values.namespace} get pods -l app.kubernetes.io/name={CLEANUP} -o wide`",
        )
        await self._delete(key)

    async def _until(self, condition: Callable[[], object], problem: str) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._deadline_s
        while True:
            found = condition()
            if asyncio.iscoroutine(found) and await found:
                return
            if loop.time() > end:
                raise KubeError(problem)
            await asyncio.sleep(self._poll_s)

    async def _agents_are_gone(self) -> bool:
        path = collection_path("v1", "pods", self._values.namespace)
        selector = f"app.kubernetes.io/name={AGENT}"
        body = await self._api.request("GET", path, query={"labelSelector": selector})
        return not any(_labels(pod).get("app.kubernetes.io/name") == AGENT for pod in _items(body))

    async def _is_gone(self, key: Key) -> bool:
        return await self._get(key) is None

    async def _is_complete(self, key: Key) -> bool:
        found = await self._get(key)
        status = found.get("status") if found is not None else None
        if not isinstance(status, dict) or "desiredNumberScheduled" not in status:
            return False
        wanted = status["desiredNumberScheduled"]
        self._say(f"{status.get('numberReady', 0)} of {wanted} nodes are clean")
        return bool(
            status.get("observedGeneration", 0) >= 1 and status.get("numberReady", 0) >= wanted
        )

    async def _get(self, key: Key) -> Live | None:
        try:
            found: Live = json.loads(await self._api.request("GET", key.path))
        except KubeError as error:
            if error.is_missing:
                return None
            raise
        return found

    async def _delete(self, key: Key) -> bool:
        options = {"propagationPolicy": "Foreground"}
        try:
            await self._api.request("DELETE", key.path, query=options)
        except KubeError as error:
            if error.is_missing:
                return False
            raise
        return True


def cleanup_daemon_set(values: Given) -> Manifest:
    """The agent's pods once more, with `meshnode uninstall` in place of the agent."""
    made = json.loads(json.dumps(daemon_set(values)))
    made["metadata"]["name"] = CLEANUP
    spec = made["spec"]
    spec["selector"]["matchLabels"] = labels_of(CLEANUP)
    spec["updateStrategy"] = {"type": "OnDelete"}
    spec["template"]["metadata"]["labels"] = labels_of(CLEANUP)
    pod = spec["template"]["spec"]
    [agent] = pod["containers"]
    # Neither exists any more when a removal is repeated, and neither is needed.
    kept = [volume for volume in pod["volumes"] if volume["name"] not in ("ca-root", "token")]
    names = {volume["name"] for volume in kept}
    pod["volumes"] = kept
    cleaning = {
        "name": "clean",
        **{name: agent[name] for name in ("image", "imagePullPolicy", "env", "securityContext")},
        "args": ["uninstall", "--yes", f"--cni-bin-dir={CNI_BIN}", f"--cni-conf-dir={CNI_CONF}"],
        "volumeMounts": [one for one in agent["volumeMounts"] if one["name"] in names],
    }
    waiting = {
        "name": "done",
        **{name: agent[name] for name in ("image", "imagePullPolicy")},
        "command": ["sleep", "infinity"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod["initContainers"], pod["containers"] = [cleaning], [waiting]
    pod["terminationGracePeriodSeconds"] = 1
    return dict(made)


def _items(body: bytes) -> Sequence[Mapping[str, object]]:
    items = json.loads(body).get("items")
    return items if isinstance(items, list) else []


def _labels(item: Mapping[str, object]) -> Mapping[str, object]:
    metadata = item.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    return labels if isinstance(labels, dict) else {}
