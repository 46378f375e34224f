"""What the checks look at: the objects, and the snapshot that they make."""

from __future__ import annotations

from mesh.analyze.finding import Finding, finding
from mesh.model.codes import Code
from mesh.model.snapshot import MeshSnapshot, Severity
from mesh.sources.objects import ObjectSet


class AnalyzedMesh:
    """One configuration."""

    def __init__(self, objects: ObjectSet, snapshot: MeshSnapshot) -> None:
        self.snapshot = snapshot
        self.objects = objects.objects
        self._where = {(o.kind, o.namespace, o.name): o.where for o in reversed(objects.objects)}

    def finding(
        self,
        code: Code,
        kind: str,
        namespace: str,
        name: str,
        message: str,
        severity: Severity = Severity.WARNING,
    ) -> Finding:
        """Make a finding about an object, at its place."""
        subject = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
        return finding(
            code, subject, self._where.get((kind, namespace, name), subject), message, severity
        )
