"""Give up privilege for good: `drop` user and capabilities, then system calls by `seccomp`."""

from mesh.privilege.drop import drop_privileges, verify_unprivileged, worker_ids
from mesh.privilege.seccomp import install_seccomp

__all__ = ["drop_privileges", "install_seccomp", "verify_unprivileged", "worker_ids"]
