"""The addresses that the kubelet probes from."""

from __future__ import annotations

from agent.kubernetes.probes import visible_addresses


def test_all_but_the_hosts_private_addresses_in_order() -> None:
    found = visible_addresses(
        [
            ({"IFA_ADDRESS": "fd00::1"}, 0),
            ({"IFA_ADDRESS": "10.1.0.9", "IFA_LOCAL": "10.1.0.1"}, 0),
            ({"IFA_ADDRESS": "127.0.0.1", "IFA_LOCAL": "127.0.0.1"}, 254),
            ({"IFA_ADDRESS": "::1"}, 254),
            ({"IFA_ADDRESS": "fe80::1"}, 253),
            ({"IFA_ADDRESS": "10.0.0.1"}, 0),
            ({"IFA_ADDRESS": "10.0.0.1"}, 0),
        ]
    )
    assert [str(one) for one in found] == ["10.0.0.1", "10.1.0.1", "fd00::1"]
