"""Conflicts of a cluster with the mesh."""

from __future__ import annotations

import asyncio
import json

import pytest

from agent.kubernetes.preflight import (
    Conflict,
    cilium_conflicts,
    cluster_conflicts,
    cni_conflicts,
    network_policy_conflicts,
)
from mesh.sources.kubernetes.transport import KubeApi
from tests.support.kube_api import KubeApiServer

QUIET = {"cni-exclusive": "false"}


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (QUIET, []),
        ({}, ["Cilium: cni.exclusive"]),
        ({"cni-exclusive": "true"}, ["Cilium: cni.exclusive"]),
        ({**QUIET, "kube-proxy-replacement": "true"}, ["Cilium: socket load balancing"]),
        ({**QUIET, "kube-proxy-replacement": "strict"}, ["Cilium: socket load balancing"]),
        ({**QUIET, "enable-socket-lb": "true"}, ["Cilium: socket load balancing"]),
        ({**QUIET, "enable-socket-lb": "true", "bpf-lb-sock-hostns-only": "true"}, []),
        ({**QUIET, "kube-proxy-replacement": "disabled"}, []),
        ({**QUIET, "enable-bpf-masquerade": "true"}, ["Cilium: bpf.masquerade"]),
    ],
)
def test_cilium(config: dict[str, str], names: list[str]) -> None:
    assert [one.name for one in cilium_conflicts(config)] == names


def policy(*rules: object, namespace: str = "shop", **spec: object) -> dict[str, object]:
    made = {"podSelector": {}, "ingress": list(rules), **spec}
    return {"metadata": {"namespace": namespace, "name": "p"}, "spec": made}


@pytest.mark.parametrize(
    ("manifest", "is_conflict"),
    [
        (policy({"ports": [{"port": 80}]}), True),
        (policy({"ports": [{"port": "http"}]}), True),
        (policy({"ports": [{"protocol": "UDP", "port": 15008}]}), True),
        (policy({"ports": [{"port": 80}, {"port": 15008}]}), False),
        (policy({"ports": [{"port": 80}]}, {"ports": [{"port": 15008}]}), False),
        (policy({"ports": [{"port": 15000, "endPort": 15100}]}), False),
        (policy({"ports": [{"protocol": "TCP"}]}), False),
        (policy({"from": [{"podSelector": {}}]}), False),
        (policy(), False),
        (policy({"ports": [{"port": 80}]}, policyTypes=["Egress"]), False),
        (policy({"ports": [{"port": 80}]}, namespace="plain"), False),
    ],
)
def test_network_policies(manifest: dict[str, object], is_conflict: bool) -> None:
    found = list(network_policy_conflicts([manifest], frozenset({"shop"})))
    assert bool(found) is is_conflict
    if found:
        assert found[0].name == "NetworkPolicy shop/p"
        assert "15008" in found[0].hint


def plugins(*types: str) -> str:
    return json.dumps({"plugins": [{"type": one} for one in types]})


@pytest.mark.parametrize(
    ("files", "words", "breaks"),
    [
        ({"05-a.conflist": plugins("bridge", "ours")}, "", False),
        ({}, "has none", False),
        ({"README": "x"}, "has none", False),
        ({"05-a.conflist": "{"}, "cannot be read", True),
        ({"05-a.conflist": plugins()}, "cannot be read", True),
        ({"05-a.conf": '{"type": "bridge"}'}, "not chained", True),
        (
            {"05-a.conflist": plugins("cilium-cni"), "10-b.conflist": plugins("bridge", "ours")},
            "it is in 10-b.conflist, which is not in use",
            True,
        ),
        ({"05-a.conflist": plugins("bridge", "ours", "late")}, "late is chained after", False),
    ],
)
def test_the_nodes_cni_configuration(files: dict[str, str], words: str, breaks: bool) -> None:
    found = list(cni_conflicts(files, ours="ours"))
    assert len(found) == (1 if words else 0)
    for one in found:
        assert words in one.detail
        assert one.breaks is breaks


def test_a_cluster_is_asked_for_all_of_it() -> None:
    async def run() -> list[Conflict]:
        server = KubeApiServer()
        kind = ("networkpolicies.networking.k8s.io", "NetworkPolicy", "networking.k8s.io/v1")
        server.store.serve(*kind)
        async with server.running(), KubeApi(server.access) as api:
            await server.apply(
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "cilium-config", "namespace": "kube-system"},
                    "data": {"enable-bpf-masquerade": "true", "cni-exclusive": "false"},
                },
                {
                    "apiVersion": "networking.k8s.io/v1",
                    "kind": "NetworkPolicy",
                    **policy({"ports": [{"port": 80}]}),
                },
            )
            found = await cluster_conflicts(api, frozenset({"shop"}))
            server.faults.forbidden.add("networkpolicies.networking.k8s.io")
            return [*found, *await cluster_conflicts(api, frozenset({"shop"}))]

    names = [(one.name, one.breaks) for one in asyncio.run(run())]
    assert names == [
        ("Cilium: bpf.masquerade", False),
        ("NetworkPolicy shop/p", True),
        ("Cilium: bpf.masquerade", False),
        ("NetworkPolicies", False),
    ]
