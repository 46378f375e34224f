"""Where a node keeps what: run-time files, pins and the cgroup of its own processes.

Several nodes may share one machine (demo, tests), so everything is under the node's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import ConfigError

SCHEMA_VERSION = 2
"""Version of the pinned maps' layout; a change of any struct in `bpf/layout.h` raises it."""

RUN_ROOT = Path("/run/meshnode")
BPF_ROOT = Path("/sys/fs/bpf/meshnode")

_NODE_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class NodePaths:
    """All paths of one node; a node name is an RFC 1123 subdomain."""

    node: str

    def __post_init__(self) -> None:
        if not _NODE_NAME.fullmatch(self.node):
            raise ConfigError(
                f"{self.node!r} is not a node name: use lower-case letters, digits, '-' and '.'"
            )

    @property
    def run_dir(self) -> Path:
        """Mode 0700: sockets, lock and process ids."""
        return RUN_ROOT / self.node

    @property
    def lock_file(self) -> Path:
        return self.run_dir / "agent.lock"

    @property
    def admin_socket(self) -> Path:
        return self.run_dir / "admin.sock"

    @property
    def holder_socket(self) -> Path:
        return self.run_dir / "holder.sock"

    @property
    def holder_lock(self) -> Path:
        """Locked while a holder runs (fcntl lock, whose owner is the holder)."""
        return self.run_dir / "holder.lock"

    @property
    def cni_socket(self) -> Path:
        """Where the CNI plugin asks."""
        return self.run_dir / "cni.sock"

    @property
    def workers_dir(self) -> Path:
        """One file per running worker, named by its process id."""
        return self.run_dir / "workers"

    @property
    def pin_root(self) -> Path:
        """All schema versions of this node. The BPF file system refuses names with a dot (EPERM);
        a node name has no underscore, so the two stand for each other."""
        return BPF_ROOT / self.node.replace(".", "_")

    @property
    def pin_dir(self) -> Path:
        """`maps/`, `progs/` and `links/` of the schema this program speaks."""
        return self.pin_root / f"v{SCHEMA_VERSION}"

    @property
    def cgroup_name(self) -> str:
        """Directory under the cgroup v2 mount that holds this node's own processes."""
        return f"meshnode-{self.node}"

    @property
    def canary_cgroup_name(self) -> str:
        """Directory under the pods' cgroup that holds the canary."""
        return f"meshnode-canary-{self.node}"


def known_nodes() -> list[str]:
    """Nodes that have run-time files or pins on this machine."""
    names = {
        entry.name.replace("_", ".")
        for root in (RUN_ROOT, BPF_ROOT)
        if root.is_dir()
        for entry in root.iterdir()
    }
    return sorted(name for name in names if _NODE_NAME.fullmatch(name))
