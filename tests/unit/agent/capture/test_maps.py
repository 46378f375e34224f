"""Every codec there and back."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture import maps
from agent.capture.desired import (
    AgentCgroup,
    ConfigEntry,
    ExcludedNet,
    ExclusionEntry,
    PodEntry,
    WorkloadEntry,
)
from bpf.layout import ConfigFlag, Exclusion, PodFlag, WorkloadFlag, pack_ip
from mesh.model.address import IPAddress, SocketAddress, canonical_ip
from mesh.model.kernel import KernelVerdict, VerdictKey, VerdictValue

U16 = st.integers(0, 2**16 - 1)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
IPS = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6).map(canonical_ip).filter(lambda ip: ip.version == 6)
)


@given(IPS, U16, U64)
def test_addresses(ip: IPAddress, port: int, cookie: int) -> None:
    assert maps.decode_ip(pack_ip(ip)) == ip
    address = SocketAddress(ip, port)
    assert maps.decode_service_key(maps.encode_service_key(address)) == address
    assert maps.decode_backend(maps.encode_backend(address)) == address
    assert maps.decode_cookie(maps.encode_cookie(cookie)) == cookie


@given(U32, U32, U64)
def test_entries(number: int, policy_class: int, cookie: int) -> None:
    pod = PodEntry(workload=number, src_class=policy_class, flags=PodFlag.EXCLUDES_UID, pacing=9)
    assert maps.decode_pod(maps.encode_pod(pod)) == pod
    workload = WorkloadEntry(
        workload=number,
        netns_cookie=cookie,
        dst_class=policy_class,
        flags=WorkloadFlag.ENROLLED | WorkloadFlag.WAYPOINT,
    )
    assert maps.decode_workload(maps.encode_workload(workload)) == workload
    key = VerdictKey(number, policy_class, 443)
    assert maps.decode_verdict_key(maps.encode_verdict_key(key)) == key
    value = VerdictValue(KernelVerdict.DENY, number)
    assert maps.decode_verdict(maps.encode_verdict(value)) == value
    entry = ExclusionEntry(cookie, Exclusion.UID, number)
    assert maps.decode_exclusion(maps.encode_exclusion(entry)) == entry
    config = ConfigEntry(agent=AgentCgroup(id=cookie, level=3), flags=ConfigFlag.ENCRYPT)
    assert maps.decode_config(maps.encode_config(config)) == config
    assert maps.decode_backend_key(maps.encode_backend_key(number, 3)) == (number, 3)


@pytest.mark.parametrize(
    "network", ["10.0.0.0/8", "192.0.2.1/32", "0.0.0.0/0", "::/0", "fd00::/8", "2001:db8::1/128"]
)
def test_networks(network: str) -> None:
    entry = ExcludedNet(0x1234_5678_9ABC_DEF0, ip_network(network))
    assert maps.decode_net(maps.encode_net(entry)) == entry


def test_ipv4_is_mapped() -> None:
    assert pack_ip(IPv4Address("1.2.3.4")) == IPv6Address("::ffff:1.2.3.4").packed
