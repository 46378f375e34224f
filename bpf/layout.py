"""The Python mirror of `layout.h`: structs, enums, and the inventory of maps and programs.

`tests/unit/bpf` compiles the header on the host and compares size, offsets and enum values. Field
meanings are documented in the header. Ports are in host order, addresses in network order.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from bpf.enums import AttachType as AttachType
from bpf.enums import ConfigFlag as ConfigFlag
from bpf.enums import Counted as Counted
from bpf.enums import EventKind as EventKind
from bpf.enums import Exclusion as Exclusion
from bpf.enums import MapType as MapType
from bpf.enums import PathKind as PathKind
from bpf.enums import PodFlag as PodFlag
from bpf.enums import ProgType as ProgType
from bpf.enums import Reason as Reason
from bpf.enums import ServiceFlag as ServiceFlag
from bpf.enums import SockFlag as SockFlag
from bpf.enums import Target as Target
from bpf.enums import WorkloadFlag as WorkloadFlag
from mesh.model.address import IPAddress, canonical_ip

SOURCE_HASH_BYTES = 32
LPM_COOKIE_BITS = 64
ZTUNNEL_MARK = 0x539

_u8, _u16, _u32, _u64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64


class Addr(ctypes.Structure):
    """`struct mn_addr`: sixteen bytes, IPv4 as `::ffff:a.b.c.d`."""

    _fields_ = [("word", _u32 * 4)]

    @classmethod
    def of(cls, ip: IPAddress) -> Addr:
        return cls.from_buffer_copy(pack_ip(ip))

    @property
    def ip(self) -> IPAddress:
        return canonical_ip(IPv6Address(bytes(self)))


def pack_ip(ip: IPAddress) -> bytes:
    """The sixteen bytes of an address."""
    if isinstance(ip, IPv4Address):
        return bytes(10) + b"\xff\xff" + ip.packed
    return ip.packed


class Config(ctypes.Structure):
    """`struct mn_config`."""

    _fields_ = [
        ("agent_cgroup", _u64),
        ("grant_ttl_ns", _u64),
        ("agent_level", _u32),
        ("flags", _u32),
        ("outbound_port", _u16),
        ("plaintext_port", _u16),
        ("hbone_port", _u16),
        ("pad", _u16),
    ]


class Meta(ctypes.Structure):
    """`struct mn_meta`."""

    _fields_ = [("schema_version", _u32), ("pad", _u32), ("source_hash", _u8 * SOURCE_HASH_BYTES)]


class Pod(ctypes.Structure):
    """`struct mn_pod`."""

    _fields_ = [("workload", _u32), ("src_class", _u32), ("flags", _u32), ("pacing", _u32)]


class WorkloadValue(ctypes.Structure):
    """`struct mn_workload`."""

    _fields_ = [
        ("netns_cookie", _u64),
        ("workload", _u32),
        ("dst_class", _u32),
        ("flags", _u32),
        ("pad", _u32),
    ]


class ServiceKeyStruct(ctypes.Structure):
    """`struct mn_service_key`."""

    _fields_ = [("vip", Addr), ("port", _u16), ("pad", _u16)]


class ServiceValue(ctypes.Structure):
    """`struct mn_service`."""

    _fields_ = [("service", _u32), ("backends", _u32), ("flags", _u32), ("pad", _u32)]


class BackendKey(ctypes.Structure):
    """`struct mn_backend_key`."""

    _fields_ = [("service", _u32), ("index", _u32)]


class Backend(ctypes.Structure):
    """`struct mn_backend`."""

    _fields_ = [("addr", Addr), ("port", _u16), ("pad", _u16)]


class VerdictKeyStruct(ctypes.Structure):
    """`struct mn_verdict_key`."""

    _fields_ = [("src_class", _u32), ("dst_class", _u32), ("port", _u32)]


class VerdictValueStruct(ctypes.Structure):
    """`struct mn_verdict_value`."""

    _fields_ = [("verdict", _u32), ("policy_reason", _u32)]


class ExcludeKey(ctypes.Structure):
    """`struct mn_exclude_key`."""

    _fields_ = [("netns_cookie", _u64), ("kind", _u32), ("value", _u32)]


class ExcludeNet(ctypes.Structure):
    """`struct mn_exclude_net`."""

    _fields_ = [
        ("prefix_bits", _u32),
        ("cookie_low", _u32),
        ("cookie_high", _u32),
        ("addr", Addr),
    ]


class ClientKey(ctypes.Structure):
    """`struct mn_client_key`."""

    _fields_ = [("netns_cookie", _u64), ("addr", Addr), ("port", _u32), ("pad", _u32)]


class OrigDst(ctypes.Structure):
    """`struct mn_orig_dst`."""

    _fields_ = [("addr", Addr), ("port", _u16), ("pad", _u16)]


class Tuple(ctypes.Structure):
    """`struct mn_tuple`."""

    _fields_ = [("src", Addr), ("dst", Addr), ("src_port", _u16), ("dst_port", _u16)]


class Sock(ctypes.Structure):
    """`struct mn_sock`."""

    _fields_ = [
        ("netns_cookie", _u64),
        ("start_ns", _u64),
        ("received_at_fin", _u64),
        ("orig", Addr),
        ("dst", Addr),
        ("src_workload", _u32),
        ("dst_workload", _u32),
        ("src_class", _u32),
        ("dst_class", _u32),
        ("orig_port", _u16),
        ("port", _u16),
        ("path", _u8),
        ("flags", _u8),
        ("pad", _u16),
    ]


class Flow(ctypes.Structure):
    """`struct mn_flow`."""

    _fields_ = [
        ("netns_cookie", _u64),
        ("socket_cookie", _u64),
        ("start_ns", _u64),
        ("expires_ns", _u64),
        ("src_workload", _u32),
        ("dst_workload", _u32),
        ("src_class", _u32),
        ("dst_class", _u32),
        ("cut", _u32),
        ("seen", _u32),
    ]


class StatsKey(ctypes.Structure):
    """`struct mn_stats_key`."""

    _fields_ = [
        ("src_workload", _u32),
        ("dst_workload", _u32),
        ("vip", Addr),
        ("port", _u16),
        ("path", _u8),
        ("pad", _u8),
    ]


class Stats(ctypes.Structure):
    """`struct mn_stats`."""

    _fields_ = [
        ("opened", _u64),
        ("closed", _u64),
        ("failed", _u64),
        ("bytes_sent", _u64),
        ("bytes_received", _u64),
        ("retransmits", _u64),
        ("rtt_us_sum", _u64),
        ("rtt_samples", _u64),
        ("untold", _u64),
        ("told", _u64),
        ("period", _u64),
    ]


class Event(ctypes.Structure):
    """`struct mn_event`."""

    _fields_ = [
        ("time_ns", _u64),
        ("netns_cookie", _u64),
        ("duration_ns", _u64),
        ("bytes_sent", _u64),
        ("bytes_received", _u64),
        ("orig", Addr),
        ("tuple", Tuple),
        ("src_workload", _u32),
        ("dst_workload", _u32),
        ("reason", _u32),
        ("policy_reason", _u32),
        ("orig_port", _u16),
        ("kind", _u8),
        ("path", _u8),
        ("established", _u32),
        ("counted", _u32),
    ]


NO_PREALLOC = 1
"""BPF_F_NO_PREALLOC: memory grows with the entries."""


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One map. `index` is its number in `maps.h`, which the loader turns into a descriptor."""

    index: int
    name: str
    type: MapType
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0


_U64 = ctypes.sizeof(_u64)
_U32 = ctypes.sizeof(_u32)
_size = ctypes.sizeof

MAPS: tuple[MapSpec, ...] = (
    MapSpec(1, "mn_config", MapType.ARRAY, _U32, _size(Config), 1),
    MapSpec(2, "mn_meta", MapType.ARRAY, _U32, _size(Meta), 1),
    MapSpec(3, "mn_enrolled", MapType.HASH, _U64, _size(Pod), 4096, NO_PREALLOC),
    MapSpec(4, "mn_workload", MapType.HASH, _size(Addr), _size(WorkloadValue), 131072, NO_PREALLOC),
    MapSpec(
        5,
        "mn_service",
        MapType.HASH,
        _size(ServiceKeyStruct),
        _size(ServiceValue),
        65536,
        NO_PREALLOC,
    ),
    MapSpec(6, "mn_backend", MapType.HASH, _size(BackendKey), _size(Backend), 262144, NO_PREALLOC),
    MapSpec(
        7,
        "mn_verdict",
        MapType.HASH,
        _size(VerdictKeyStruct),
        _size(VerdictValueStruct),
        262144,
        NO_PREALLOC,
    ),
    MapSpec(8, "mn_exclude", MapType.HASH, _size(ExcludeKey), _U32, 65536, NO_PREALLOC),
    MapSpec(9, "mn_exclude_net", MapType.LPM_TRIE, _size(ExcludeNet), _U32, 65536, NO_PREALLOC),
    MapSpec(10, "mn_probe", MapType.HASH, _size(Addr), _U32, 1024, NO_PREALLOC),
    MapSpec(11, "mn_orig_dst", MapType.LRU_HASH, _size(ClientKey), _size(OrigDst), 65536),
    MapSpec(12, "mn_grant", MapType.LRU_HASH, _size(Tuple), _U64, 32768),
    MapSpec(13, "mn_listener", MapType.SOCKHASH, _size(Addr), _U64, 8192),
    MapSpec(14, "mn_sock", MapType.SK_STORAGE, _U32, _size(Sock), 0, NO_PREALLOC),
    # Allocated beforehand (10 MB): memory taken and given back per connection costs 1 µs more.
    MapSpec(15, "mn_flow", MapType.HASH, _size(Tuple), _size(Flow), 65536),
    MapSpec(16, "mn_stats", MapType.PERCPU_HASH, _size(StatsKey), _size(Stats), 16384, NO_PREALLOC),
    MapSpec(17, "mn_reason", MapType.PERCPU_ARRAY, _U32, _U64, max(Reason) + 1),
    MapSpec(18, "mn_events", MapType.RINGBUF, 0, 0, 262144),
)


@dataclass(frozen=True, slots=True)
class ProgSpec:
    """One program, named as in C and in bpffs."""

    name: str
    type: ProgType
    attach: AttachType
    target: Target


PROGRAMS: tuple[ProgSpec, ...] = (
    ProgSpec("mn_connect4", ProgType.SOCK_ADDR, AttachType.INET4_CONNECT, Target.PODS_CGROUP),
    ProgSpec("mn_connect6", ProgType.SOCK_ADDR, AttachType.INET6_CONNECT, Target.PODS_CGROUP),
    ProgSpec("mn_peer4", ProgType.SOCK_ADDR, AttachType.INET4_GETPEERNAME, Target.PODS_CGROUP),
    ProgSpec("mn_peer6", ProgType.SOCK_ADDR, AttachType.INET6_GETPEERNAME, Target.PODS_CGROUP),
    ProgSpec("mn_sockops", ProgType.SOCK_OPS, AttachType.SOCK_OPS, Target.PODS_CGROUP),
    ProgSpec("mn_zt_sockops", ProgType.SOCK_OPS, AttachType.SOCK_OPS, Target.AGENT_CGROUP),
    ProgSpec("mn_origdst", ProgType.CGROUP_SOCKOPT, AttachType.GETSOCKOPT, Target.AGENT_CGROUP),
    ProgSpec("mn_sk_lookup", ProgType.SK_LOOKUP, AttachType.SK_LOOKUP, Target.POD_NETNS),
)

STRUCTS: dict[str, type[ctypes.Structure]] = {
    "mn_addr": Addr,
    "mn_config": Config,
    "mn_meta": Meta,
    "mn_pod": Pod,
    "mn_workload": WorkloadValue,
    "mn_service_key": ServiceKeyStruct,
    "mn_service": ServiceValue,
    "mn_backend_key": BackendKey,
    "mn_backend": Backend,
    "mn_verdict_key": VerdictKeyStruct,
    "mn_verdict_value": VerdictValueStruct,
    "mn_exclude_key": ExcludeKey,
    "mn_exclude_net": ExcludeNet,
    "mn_client_key": ClientKey,
    "mn_orig_dst": OrigDst,
    "mn_tuple": Tuple,
    "mn_sock": Sock,
    "mn_flow": Flow,
    "mn_stats_key": StatsKey,
    "mn_stats": Stats,
    "mn_event": Event,
}
"""Every struct of `layout.h` by its C name."""
