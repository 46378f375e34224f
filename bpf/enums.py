"""Numbers of `layout.h` and of linux/bpf.h. Import them from `bpf.layout`."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Reason(IntEnum):
    """`enum mn_reason`: why a hook did what it did. `label` is the metric label."""

    NONE = 0
    PASS_AGENT = 1
    PASS_NOT_ENROLLED = 2
    PASS_EXCLUDED_UID = 3
    PASS_EXCLUDED_PORT = 4
    PASS_EXCLUDED_CIDR = 5
    PASS_LOOPBACK = 6
    PASS_SELF = 7
    PASS_UNKNOWN = 8
    PASS_OUTSIDE = 9
    SERVICE_OUTSIDE = 10
    DIRECT = 11
    DIRECT_SERVICE = 12
    CAPTURED = 13
    CAPTURED_SERVICE = 14
    DENY_POLICY = 15
    DENY_NO_ENDPOINT = 16
    DENY_BACKEND_MISSING = 17
    DENY_NO_CONFIG = 18
    DENY_STORAGE = 19
    DENY_BOUND_DEVICE = 20
    DENY_CAPTURE_PORT = 21
    GRANTED = 22
    GRANT_FAILED = 23
    ORIG_DST_FAILED = 24
    FLOW_FULL = 25
    STATS_FULL = 26
    EVENT_LOST = 27
    ORIG_DST_FOUND = 28
    ORIG_DST_MISSING = 29
    IN_LOCAL = 30
    IN_HBONE = 31
    IN_PROBE = 32
    IN_EXCLUDED = 33
    IN_GRANTED = 34
    IN_ZTUNNEL = 35
    IN_GRANT_EXPIRED = 36
    DROP_CAPTURE_PORT = 37
    DROP_NO_LISTENER = 38
    DROP_ASSIGN = 39
    DROP_NO_CONFIG = 40
    ZT_GRANTED = 41
    ZT_GRANT_FAILED = 42

    @property
    def label(self) -> str:
        return self.name.lower()

    @property
    def is_refusal(self) -> bool:
        """The connection was refused or dropped."""
        return self.name.startswith(("DENY_", "DROP_"))


class PathKind(IntEnum):
    """`enum mn_path`."""

    NONE = 0
    DIRECT = 1
    PASSTHROUGH = 2
    CAPTURED = 3


class EventKind(IntEnum):
    """`enum mn_event_kind`."""

    DENIED = 1
    CLOSED = 2


class Exclusion(IntEnum):
    """`enum mn_exclusion`."""

    PORT = 1
    UID = 2
    INBOUND = 3


class ConfigFlag(IntFlag):
    """`enum mn_config_flag`."""

    ENCRYPT = 1
    INCOMPLETE = 2


class PodFlag(IntFlag):
    """`enum mn_pod_flag`."""

    EXCLUDES_PORT = 1
    EXCLUDES_UID = 2
    EXCLUDES_CIDR = 4


class WorkloadFlag(IntFlag):
    """`enum mn_workload_flag`."""

    ENROLLED = 1
    WAYPOINT = 2
    EXCLUDES_INBOUND = 4


class ServiceFlag(IntFlag):
    """`enum mn_service_flag`."""

    WAYPOINT = 1


class SockFlag(IntFlag):
    """`enum mn_sock_flag`."""

    REWRITTEN = 1
    ESTABLISHED = 2


class Counted(IntFlag):
    """`enum mn_counted`."""

    OPEN = 1
    CLOSE = 2


class MapType(IntEnum):
    """`enum bpf_map_type` of linux/bpf.h, the ones used here."""

    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    SOCKHASH = 18
    SK_STORAGE = 24
    RINGBUF = 27


class ProgType(IntEnum):
    """`enum bpf_prog_type`, the ones used here."""

    SOCK_OPS = 13
    SOCK_ADDR = 18
    CGROUP_SOCKOPT = 25
    SK_LOOKUP = 30


class AttachType(IntEnum):
    """`enum bpf_attach_type`, the ones used here."""

    SOCK_OPS = 3
    INET4_CONNECT = 10
    INET6_CONNECT = 11
    GETSOCKOPT = 21
    INET4_GETPEERNAME = 29
    INET6_GETPEERNAME = 30
    SK_LOOKUP = 36


class Target(IntEnum):
    """What a program is attached to."""

    PODS_CGROUP = 1
    AGENT_CGROUP = 2
    POD_NETNS = 3
