"""Looks at a cluster: what is installed, and what would keep pods out of the mesh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.cli.checks.result import Anchor, Check, Group
from agent.cli.reach.cluster import Manifest, read, section
from agent.kubernetes.preflight import Conflict, cluster_conflicts
from mesh.sources.kubernetes.resources import RESOURCES, Resource, collection_path
from mesh.state.labels import is_enrolled

if TYPE_CHECKING:
    from mesh.sources.kubernetes.transport import KubeApi

_CLUSTER = Group("cluster")
_INSTALLED = (("daemonsets", "meshnode-agent"), ("deployments", "meshnode-controller"))
NOT_INSTALLED = "not installed yet: `meshnode install | kubectl apply -f -`"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What the API server said.

    Attributes:
        missing: kinds that it does not serve, and who supplies them.
        installed: ready and wanted pods of the agent and the controller; None = not installed.
        enrolled: namespaces with the mesh's label.
    """

    missing: Mapping[str, str]
    installed: Mapping[str, tuple[int, int] | None]
    enrolled: frozenset[str]
    conflicts: Sequence[Conflict]


async def cluster_facts(api: KubeApi, namespace: str) -> ClusterFacts:
    """Ask the API server; raises `KubeError` if it does not answer or refuses."""
    missing: dict[str, str] = {}
    for kind in RESOURCES:
        if kind.supplier and kind.is_missed and not await _is_served(api, kind):
            missing[kind.name] = kind.supplier
    installed: dict[str, tuple[int, int] | None] = {}
    for plural, name in _INSTALLED:
        found = await read(api, f"{collection_path('apps/v1', plural, namespace)}/{name}")
        installed[name] = None if found is None else _ready(found)
    namespaces = await read(api, collection_path("v1", "namespaces")) or {}
    enrolled = frozenset(_enrolled(namespaces))
    conflicts = await cluster_conflicts(api, enrolled)
    return ClusterFacts(
        missing=missing, installed=installed, enrolled=enrolled, conflicts=conflicts
    )


async def _is_served(api: KubeApi, kind: Resource) -> bool:
    """Whether the cluster has the kind in any version that the mesh reads."""
    for version in kind.api_versions:
        if await read(api, f"{collection_path(version, kind.plural)}?limit=1") is not None:
            return True
    return False


def _ready(workload: Manifest) -> tuple[int, int]:
    """Ready and wanted pods of a DaemonSet or a Deployment."""
    status = section(workload, "status")
    ready = status.get("numberReady", status.get("readyReplicas", 0))
    wanted = status.get("desiredNumberScheduled", section(workload, "spec").get("replicas", 1))
    return ready if isinstance(ready, int) else 0, wanted if isinstance(wanted, int) else 0


def _enrolled(namespaces: Manifest) -> Iterator[str]:
    items = namespaces.get("items")
    for item in items if isinstance(items, list) else []:
        labels = {name: str(value) for name, value in section(item, "metadata", "labels").items()}
        if is_enrolled(labels, {}, []):
            yield str(section(item, "metadata").get("name", ""))


def cluster_checks(facts: ClusterFacts) -> Iterator[Check]:
    """One line each for kinds, agents, controller, namespaces and every conflict."""
    yield from _kinds(facts.missing)
    for name, pods in facts.installed.items():
        if pods is None:
            yield _CLUSTER.skipped(name, NOT_INSTALLED)
        elif pods[0] < pods[1]:
            hint = "`kubectl -n meshnode-system get pods` and the logs of those that are not ready"
            detail = f"{pods[0]} of {pods[1]} pods are ready"
            yield _CLUSTER.failed(name, detail, hint, Anchor.CLUSTER)
        else:
            yield _CLUSTER.ok(name, f"{pods[0]} of {pods[1]} pods are ready")
    if facts.enrolled:
        yield _CLUSTER.ok("enrolled namespaces", ", ".join(sorted(facts.enrolled)))
    else:
        yield _CLUSTER.skipped("enrolled namespaces", "none: `meshnode enroll NAMESPACE`")
    for conflict in facts.conflicts:
        make = _CLUSTER.failed if conflict.breaks else _CLUSTER.warning
        yield make(conflict.name, conflict.detail, conflict.hint, Anchor.CONFLICTS)
    if not facts.conflicts:
        yield _CLUSTER.ok("conflicts", "no setting of Cilium and no NetworkPolicy is in the way")


def _kinds(missing: Mapping[str, str]) -> Iterator[Check]:
    for name, supplier in sorted(missing.items()):
        yield _CLUSTER.warning(name, "the cluster does not have it", supplier, Anchor.KINDS)
    if not missing:
        yield _CLUSTER.ok("kinds", "all that are read are there")
