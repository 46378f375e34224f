"""Paths of the Kubernetes API."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.kube_store import Name, StatusError


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names."""

    collection: str
    api_version: str
    namespace: str
    name: str
    subresource: str = ""

    @property
    def is_status(self) -> bool:
        return self.subresource == "status"

    @property
    def key(self) -> Name:
        return self.namespace, self.name


def parse_path(path: str) -> Target:
    """Read a path; raise `StatusError` (404) for one that names no collection."""
    parts = path.strip("/").split("/")
    size = 2 if parts[0] == "api" else 3
    api_version, rest = "/".join(parts[1:size]), parts[size:]
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    if not rest:
        raise StatusError(404, "NotFound", path)
    group = api_version.rpartition("/")[0]
    return Target(
        f"{rest[0]}.{group}" if group else rest[0],
        api_version,
        namespace,
        rest[1] if len(rest) > 1 else "",
        "/".join(rest[2:]),
    )
