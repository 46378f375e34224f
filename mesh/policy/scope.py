"""Which policies apply to which workload, and whether it takes plaintext.

Mesh scope is a policy without selector in the root namespace; a selector in the root namespace
reaches every namespace (Istio AuthorizationPolicy and PeerAuthentication references). Policies
with target references belong to waypoints and never apply here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from mesh.model.policy import AuthorizationPolicy, MtlsMode, PeerAuthentication, PolicyScope
from mesh.model.snapshot import MeshSnapshot
from mesh.model.verdict import RuleRef
from mesh.model.workload import Workload

Scoped = TypeVar("Scoped", AuthorizationPolicy, PeerAuthentication)
Label = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Layers(Generic[Scoped]):
    """The objects that apply to one workload, widest scope first."""

    mesh: tuple[Scoped, ...]
    namespace: tuple[Scoped, ...]
    selector: tuple[Scoped, ...]

    def ordered(self) -> tuple[tuple[Scoped, ...], ...]:
        """The layers, widest first."""
        return self.mesh, self.namespace, self.selector


class ScopeIndex(Generic[Scoped]):
    """Finds the objects of a workload without looking at those of others."""

    __slots__ = ("_mesh", "_namespace", "_root", "_selector")

    def __init__(self, objects: Iterable[Scoped], root_namespace: str) -> None:
        ordered = sorted(objects, key=lambda item: item.key)
        self._root = root_namespace
        self._mesh: tuple[Scoped, ...] = tuple(
            item for item in ordered if item.scope is PolicyScope.MESH
        )
        namespace: dict[str, list[Scoped]] = {}
        # Filed under one label of the selector; the rest is compared on lookup.
        selector: dict[tuple[str, Label | None], list[Scoped]] = {}
        for item in ordered:
            if item.scope is PolicyScope.NAMESPACE:
                namespace.setdefault(item.namespace, []).append(item)
            elif item.scope is PolicyScope.SELECTOR:
                label = min(item.selector.items(), default=None)
                selector.setdefault((item.namespace, label), []).append(item)
        self._namespace: dict[str, tuple[Scoped, ...]] = {
            name: tuple(items) for name, items in namespace.items()
        }
        self._selector: dict[tuple[str, Label | None], list[Scoped]] = selector

    def of(self, workload: Workload) -> Layers[Scoped]:
        """Collect the objects that apply to a workload, each layer ordered by key."""
        found: list[Scoped] = []
        for namespace in dict.fromkeys((self._root, workload.namespace)):
            for label in (None, *workload.labels.items()):
                for item in self._selector.get((namespace, label), ()):
                    if _selects(item.selector, workload.labels):
                        found.append(item)  # noqa: PERF401  (three levels in one expression hide it)
        found.sort(key=lambda item: item.key)
        return Layers(self._mesh, self._namespace.get(workload.namespace, ()), tuple(found))


def _selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in selector.items())


@dataclass(frozen=True, slots=True)
class EffectiveMtls:
    """What a workload demands of its peers, and which objects say so."""

    mode: MtlsMode
    decided_by: RuleRef | None
    ports: Mapping[int, tuple[MtlsMode, RuleRef]]

    def at(self, port: int) -> tuple[MtlsMode, RuleRef | None]:
        """Return the mode of a port of the workload, and the object that sets it."""
        return self.ports.get(port, (self.mode, self.decided_by))

    def strict(self, port: int) -> tuple[bool, RuleRef | None]:
        """Say whether plaintext to a port of the workload is refused, and by which object."""
        mode, decided_by = self.at(port)
        return mode is MtlsMode.STRICT, decided_by


def effective_mtls(layers: Layers[PeerAuthentication]) -> EffectiveMtls:
    """Resolve inheritance: the oldest object of a scope; narrower beats wider; UNSET inherits."""
    mode, decided_by = MtlsMode.PERMISSIVE, None
    ports: dict[int, tuple[MtlsMode, RuleRef]] = {}
    for layer in layers.ordered():
        if not layer:
            continue
        oldest = min(layer, key=lambda item: (item.created, item.key))
        ref = RuleRef(kind="PeerAuthentication", policy=oldest.key)
        if oldest.mode is not MtlsMode.UNSET:
            mode, decided_by = oldest.mode, ref
        if oldest.scope is PolicyScope.SELECTOR:
            set_ports = oldest.port_modes.items()
            ports = {port: (own, ref) for port, own in set_ports if own is not MtlsMode.UNSET}
    return EffectiveMtls(mode, decided_by, ports)


def authorization_scopes(snapshot: MeshSnapshot) -> ScopeIndex[AuthorizationPolicy]:
    """Index the authorization policies of a snapshot."""
    return ScopeIndex(snapshot.policies.values(), snapshot.settings.root_namespace)


def authentication_scopes(snapshot: MeshSnapshot) -> ScopeIndex[PeerAuthentication]:
    """Index the peer authentications of a snapshot."""
    root = snapshot.settings.root_namespace
    return ScopeIndex(snapshot.peer_authentications.values(), root)
