"""Typed values to and from the bytes of each map that user space writes. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network

from agent.capture.desired import (
    AgentCgroup,
    ConfigEntry,
    ExcludedNet,
    ExclusionEntry,
    KernelState,
    PodEntry,
    ServiceEntry,
    WorkloadEntry,
)
from bpf.layout import (
    LPM_COOKIE_BITS,
    Addr,
    Backend,
    BackendKey,
    Config,
    ConfigFlag,
    ExcludeKey,
    ExcludeNet,
    Exclusion,
    Pod,
    PodFlag,
    ServiceFlag,
    ServiceKeyStruct,
    ServiceValue,
    VerdictKeyStruct,
    VerdictValueStruct,
    WorkloadFlag,
    WorkloadValue,
    pack_ip,
)
from mesh.model.address import IPAddress, IPNetwork, SocketAddress
from mesh.model.kernel import KernelVerdict, VerdictKey, VerdictValue

Entries = Mapping[bytes, bytes]
PRESENT = struct.pack("=I", 1)
"""Value of maps that are sets."""


def encode_state(state: KernelState) -> dict[str, Entries]:
    """The wanted content of each map, `mn_enrolled` included. The large ones are encoded when
    they are read: nobody needs all of them at once."""
    return {
        "mn_backend": _Backends(state.services),
        "mn_service": encode_services(state.services),
        "mn_exclude": {encode_exclusion(entry): PRESENT for entry in state.exclusions},
        "mn_exclude_net": {encode_net(entry): PRESENT for entry in state.excluded_nets},
        "mn_probe": {pack_ip(ip): PRESENT for ip in state.probes},
        "mn_workload": _Workloads(state.workloads),
        "mn_enrolled": encode_pods(state.pods),
        "mn_verdict": encode_verdicts(state.verdicts),
        "mn_config": {bytes(4): encode_config(state.config)},
    }


def encode_backends(services: Mapping[SocketAddress, ServiceEntry]) -> dict[bytes, bytes]:
    """Content of `mn_backend` for some services."""
    return dict(_Backends(services))


def encode_services(services: Mapping[SocketAddress, ServiceEntry]) -> dict[bytes, bytes]:
    """Content of `mn_service`."""
    return {encode_service_key(vip): encode_service(entry) for vip, entry in services.items()}


def encode_workloads(workloads: Mapping[IPAddress, WorkloadEntry]) -> dict[bytes, bytes]:
    """Content of `mn_workload` for some workloads."""
    return {pack_ip(ip): encode_workload(entry) for ip, entry in workloads.items()}


def encode_pods(pods: Mapping[int, PodEntry]) -> dict[bytes, bytes]:
    """Content of `mn_enrolled`."""
    return {encode_cookie(cookie): encode_pod(entry) for cookie, entry in pods.items()}


def encode_verdicts(verdicts: Mapping[VerdictKey, VerdictValue]) -> dict[bytes, bytes]:
    """Content of `mn_verdict`."""
    return {encode_verdict_key(key): encode_verdict(value) for key, value in verdicts.items()}


class _Workloads(Mapping[bytes, bytes]):
    """Entries of `mn_workload`, encoded when asked for."""

    def __init__(self, workloads: Mapping[IPAddress, WorkloadEntry]) -> None:
        self._workloads = workloads

    def __getitem__(self, key: bytes) -> bytes:
        return encode_workload(self._workloads[decode_ip(key)])

    def __iter__(self) -> Iterator[bytes]:
        return map(pack_ip, self._workloads)

    def __len__(self) -> int:
        return len(self._workloads)


class _Backends(Mapping[bytes, bytes]):
    """Entries of `mn_backend`, encoded when asked for."""

    def __init__(self, services: Mapping[SocketAddress, ServiceEntry]) -> None:
        self._backends = {entry.service: entry.backends for entry in services.values()}

    def __getitem__(self, key: bytes) -> bytes:
        service, index = decode_backend_key(key)
        backends = self._backends.get(service, ())
        if index >= len(backends):
            raise KeyError(key)
        return encode_backend(backends[index])

    def __iter__(self) -> Iterator[bytes]:
        for service, backends in self._backends.items():
            for index in range(len(backends)):
                yield encode_backend_key(service, index)

    def __len__(self) -> int:
        return sum(map(len, self._backends.values()))


def encode_cookie(cookie: int) -> bytes:
    return struct.pack("=Q", cookie)


def decode_cookie(raw: bytes) -> int:
    return int(struct.unpack("=Q", raw)[0])


def decode_ip(raw: bytes) -> IPAddress:
    return Addr.from_buffer_copy(raw).ip


def encode_config(entry: ConfigEntry) -> bytes:
    return bytes(
        Config(
            agent_cgroup=entry.agent.id,
            grant_ttl_ns=entry.grant_ttl_ns,
            agent_level=entry.agent.level,
            flags=entry.flags,
            outbound_port=entry.outbound_port,
            plaintext_port=entry.plaintext_port,
            hbone_port=entry.hbone_port,
        )
    )


def decode_config(raw: bytes) -> ConfigEntry:
    config = Config.from_buffer_copy(raw)
    return ConfigEntry(
        agent=AgentCgroup(id=config.agent_cgroup, level=config.agent_level),
        flags=ConfigFlag(config.flags),
        outbound_port=config.outbound_port,
        plaintext_port=config.plaintext_port,
        hbone_port=config.hbone_port,
        grant_ttl_ns=config.grant_ttl_ns,
    )


def encode_pod(entry: PodEntry) -> bytes:
    return bytes(
        Pod(
            workload=entry.workload,
            src_class=entry.src_class,
            flags=entry.flags,
            pacing=entry.pacing,
        )
    )


def decode_pod(raw: bytes) -> PodEntry:
    pod = Pod.from_buffer_copy(raw)
    return PodEntry(
        workload=pod.workload,
        src_class=pod.src_class,
        flags=PodFlag(pod.flags),
        pacing=pod.pacing,
    )


def encode_workload(entry: WorkloadEntry) -> bytes:
    return bytes(
        WorkloadValue(
            netns_cookie=entry.netns_cookie,
            workload=entry.workload,
            dst_class=entry.dst_class,
            flags=entry.flags,
        )
    )


def decode_workload(raw: bytes) -> WorkloadEntry:
    value = WorkloadValue.from_buffer_copy(raw)
    return WorkloadEntry(
        workload=value.workload,
        netns_cookie=value.netns_cookie,
        dst_class=value.dst_class,
        flags=WorkloadFlag(value.flags),
    )


def encode_service_key(vip: SocketAddress) -> bytes:
    return bytes(ServiceKeyStruct(vip=Addr.of(vip.ip), port=vip.port))


def decode_service_key(raw: bytes) -> SocketAddress:
    key = ServiceKeyStruct.from_buffer_copy(raw)
    return SocketAddress(key.vip.ip, key.port)


def encode_service(entry: ServiceEntry) -> bytes:
    return bytes(
        ServiceValue(service=entry.service, backends=len(entry.backends), flags=entry.flags)
    )


def decode_service(raw: bytes) -> tuple[int, int, ServiceFlag]:
    """Number, count of backends, flags."""
    value = ServiceValue.from_buffer_copy(raw)
    return value.service, value.backends, ServiceFlag(value.flags)


def encode_backend_key(service: int, index: int) -> bytes:
    return bytes(BackendKey(service, index))


def decode_backend_key(raw: bytes) -> tuple[int, int]:
    """Number of the service, index of the backend."""
    key = BackendKey.from_buffer_copy(raw)
    return key.service, key.index


def encode_backend(backend: SocketAddress) -> bytes:
    return bytes(Backend(addr=Addr.of(backend.ip), port=backend.port))


def decode_backend(raw: bytes) -> SocketAddress:
    value = Backend.from_buffer_copy(raw)
    return SocketAddress(value.addr.ip, value.port)


def encode_verdict_key(key: VerdictKey) -> bytes:
    return bytes(VerdictKeyStruct(src_class=key.src, dst_class=key.dst, port=key.port))


def decode_verdict_key(raw: bytes) -> VerdictKey:
    key = VerdictKeyStruct.from_buffer_copy(raw)
    return VerdictKey(key.src_class, key.dst_class, key.port)


def encode_verdict(value: VerdictValue) -> bytes:
    return bytes(VerdictValueStruct(verdict=value.verdict, policy_reason=value.reason))


def decode_verdict(raw: bytes) -> VerdictValue:
    value = VerdictValueStruct.from_buffer_copy(raw)
    return VerdictValue(KernelVerdict(value.verdict), value.policy_reason)


def encode_exclusion(entry: ExclusionEntry) -> bytes:
    return bytes(ExcludeKey(netns_cookie=entry.netns_cookie, kind=entry.kind, value=entry.value))


def decode_exclusion(raw: bytes) -> ExclusionEntry:
    key = ExcludeKey.from_buffer_copy(raw)
    return ExclusionEntry(key.netns_cookie, Exclusion(key.kind), key.value)


def encode_net(entry: ExcludedNet) -> bytes:
    network = entry.network
    mapped = 96 if network.version == 4 else 0
    return bytes(
        ExcludeNet(
            prefix_bits=LPM_COOKIE_BITS + mapped + network.prefixlen,
            cookie_low=entry.netns_cookie & 0xFFFFFFFF,
            cookie_high=entry.netns_cookie >> 32,
            addr=Addr.of(network.network_address),
        )
    )


def decode_net(raw: bytes) -> ExcludedNet:
    key = ExcludeNet.from_buffer_copy(raw)
    bits = key.prefix_bits - LPM_COOKIE_BITS
    cookie = key.cookie_high << 32 | key.cookie_low
    return ExcludedNet(cookie, _network(IPv6Address(bytes(key.addr)), bits))


def _network(address: IPv6Address, bits: int) -> IPNetwork:
    network: IPv4Network | IPv6Network
    if address.ipv4_mapped is not None and bits >= 96:
        network = ip_network((address.ipv4_mapped, bits - 96))
    else:
        network = ip_network((address, bits))
    return network
