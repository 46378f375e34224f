"""The addresses that the kubelet probes from."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest

from agent.kubernetes.probes import OwnAddress, own_addresses, parse_address, visible_addresses


def answer(scope: int, **attributes: str) -> bytes:
    """A message of the kernel, with an attribute between that nobody wants (IFA_LABEL)."""
    packed = {1: "ADDRESS", 2: "LOCAL"}
    body = struct.pack("=BBBBI", socket.AF_INET, 24, 0, scope, 7)
    body += struct.pack("=HH3sx", 7, 3, b"lo\0")
    for number, name in packed.items():
        if name in attributes:
            value = ip_address(attributes[name]).packed
            body += struct.pack("=HH", 4 + len(value), number) + value
    return body


def test_all_but_the_hosts_private_addresses_in_order() -> None:
    found = visible_addresses(
        OwnAddress(ip=ip_address(ip), scope=scope)
        for ip, scope in (
            ("fd00::1", 0),
            ("10.1.0.1", 0),
            ("127.0.0.1", 254),
            ("::1", 254),
            ("fe80::1", 253),
            ("10.0.0.1", 0),
            ("10.0.0.1", 0),
        )
    )
    assert [str(one) for one in found] == ["10.0.0.1", "10.1.0.1", "fd00::1"]


def test_of_a_link_with_two_ends_ours_counts() -> None:
    read = parse_address(answer(0, ADDRESS="10.1.0.9", LOCAL="10.1.0.1"))
    assert read == OwnAddress(ip=ip_address("10.1.0.1"), scope=0)
    read = parse_address(answer(253, ADDRESS="fe80::1"))
    assert read == OwnAddress(ip=ip_address("fe80::1"), scope=253)


@pytest.mark.parametrize("size", [0, 3, 4000])
def test_an_attribute_of_a_wrong_length_is_an_error(size: int) -> None:
    body = struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, 7) + struct.pack("=HHI", size, 1, 0)
    with pytest.raises(ValueError, match="wrong length"):
        parse_address(body)


def test_the_kernel_is_understood() -> None:
    """Whatever this machine has: nothing of the loopback, each once, in order."""
    found = own_addresses()
    assert len(set(found)) == len(found)
    assert not any(ip.is_loopback for ip in found)
