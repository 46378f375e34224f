"""Ends of a connection or request for logs and metrics."""

from __future__ import annotations

from mesh.model.connection import Party
from mesh.model.identity import SpiffeId
from mesh.model.workload import Workload


def party(workload: Workload | None, identity: SpiffeId | None = None) -> Party:
    """One end, as far as known; the identity given (verified) wins over the workload's own."""
    if workload is None:
        return Party(
            namespace=identity.namespace if identity else "",
            identity=identity.principal if identity else "",
        )
    return Party(
        workload=workload.uid,
        name=workload.name,
        namespace=workload.namespace,
        app_name=workload.app_name,
        identity=identity.principal if identity else "",
        canonical_service=workload.canonical_service,
        canonical_revision=workload.canonical_revision,
    )
