"""Mesh-wide settings: the MeshConfig object, or defaults."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.model.address import parse_ip
from mesh.model.codes import Code
from mesh.model.snapshot import MeshSettings, SameNode
from mesh.sources.objects import MeshConfigObject, MeshConfigSpec, SourceObject
from mesh.sources.security_providers import read_providers
from mesh.state.context import Context


def read_settings(objects: Iterable[SourceObject], context: Context) -> MeshSettings:
    """Take the first MeshConfig; report the others."""
    chosen: SourceObject | None = None
    settings = MeshSettings()
    for item in objects:
        if not isinstance(item.body, MeshConfigObject):
            continue
        if chosen is not None:
            message = f"only one MeshConfig counts: that of {chosen.where}"
            context.report(item, Code.SECOND_CONFIG, message)
            continue
        chosen, settings = item, _from_config(item.body.spec)
    return settings


def _from_config(spec: MeshConfigSpec) -> MeshSettings:
    default = MeshSettings()
    return MeshSettings(
        trust_domain=spec.trust_domain or default.trust_domain,
        trust_domain_aliases=spec.trust_domain_aliases,
        root_namespace=spec.root_namespace or default.root_namespace,
        cluster=spec.cluster or default.cluster,
        same_node=SameNode(spec.same_node) if spec.same_node else default.same_node,
        probe_sources=tuple(map(parse_ip, spec.probe_sources)),
        path_normalization=spec.path_normalization,
        providers=read_providers(spec.extension_providers, ("spec", "extensionProviders")),
    )
