"""The kernel's table against the engine, pair by pair and port by port."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.address import SocketAddress
from mesh.model.kernel import KernelPolicy, KernelVerdict, VerdictKey, VerdictReason
from mesh.model.policy import AuthorizationPolicy, L4Match, PeerAuthentication, PolicyAction, Rule
from mesh.model.snapshot import SameNode
from mesh.model.verdict import ConnectionFacts, Decision
from mesh.model.workload import Workload
from mesh.policy.engine import PolicyIndex
from mesh.policy.kernel import compile_kernel_policy
from tests.unit.mesh.policy import build


def look_up(
    table: KernelPolicy, src: Workload, dst: Workload, port: int
) -> tuple[KernelVerdict, VerdictReason | None]:
    """Look up as the kernel does: the port, then port 0, then to ztunnel."""
    classes = table.src_class[src.uid], table.dst_class[dst.uid]
    for number in (port, 0):
        value = table.verdicts.get(VerdictKey(*classes, number))
        if value is not None:
            return value.verdict, table.reasons[value.reason]
    return KernelVerdict.PROXY, None


_workloads = st.builds(
    build.workload,
    name=st.just("w"),
    namespace=st.sampled_from(("shop", "web")),
    account=st.sampled_from(build.ACCOUNTS),
    addresses=st.lists(st.sampled_from(build.ADDRESSES), min_size=1, max_size=2, unique=True),
    labels=st.sampled_from(build.LABELS),
    waypoint=st.sampled_from((None, None, None, "shop/wp")),
)


@settings(max_examples=200, deadline=None)
@given(
    policies=build.policy_sets(),
    authentications=build.authentication_sets(),
    drawn=st.lists(_workloads, min_size=1, max_size=4),
)
def test_every_kernel_verdict_is_the_engines(
    policies: Sequence[AuthorizationPolicy],
    authentications: Sequence[PeerAuthentication],
    drawn: Sequence[Workload],
) -> None:
    pods = [
        replace(pod, uid=type(pod.uid)(f"pod/{pod.namespace}/w{number}"))
        for number, pod in enumerate(drawn)
    ]
    snapshot = build.snapshot(*pods, policies=policies, authentications=authentications)
    index = PolicyIndex.compile(snapshot)
    table = compile_kernel_policy(index, snapshot, "n1")
    for src in pods:
        for dst in pods:
            for port in (*build.PORTS, 9999, 65535):
                _compare(index, table, src, dst, port)


def _compare(
    index: PolicyIndex, table: KernelPolicy, src: Workload, dst: Workload, port: int
) -> None:
    verdict, reason = look_up(table, src, dst, port)
    expected = {
        index.evaluate(
            dst,
            ConnectionFacts(
                principal=src.identity, src=SocketAddress(a, 0), dst=SocketAddress(b, port)
            ),
        )
        for a in src.addresses
        for b in dst.addresses
        if a.version == b.version
    }
    if len(expected) > 1:
        assert verdict is KernelVerdict.PROXY
    for one in expected if len(expected) == 1 else ():
        proxied = one.decision in (Decision.NEEDS_L7, Decision.WAYPOINT_REQUIRED)
        plain = KernelVerdict.ALLOW if one.allowed else KernelVerdict.DENY
        assert verdict is (KernelVerdict.PROXY if proxied else plain)
        assert reason is not None
        assert (reason.decision, reason.decided_by) == (one.decision, one.decided_by)
        assert (reason.audited, reason.dry_run) == (one.audited, one.dry_run)


def test_a_source_of_one_family_does_not_suffer_from_the_addresses_it_cannot_use() -> None:
    outside = L4Match(not_dst_ips=(ip_network("10.0.0.0/8"),))
    pods = (
        build.workload("both", addresses=("10.1.0.1", "fd00::1")),
        build.workload("four", addresses=("10.0.0.9",)),
    )
    policy = build.policy("p", PolicyAction.DENY, Rule(conditions=(outside,)))
    snapshot = build.snapshot(*pods, policies=(policy,))
    index = PolicyIndex.compile(snapshot)
    table = compile_kernel_policy(index, snapshot, "n1")
    for src in pods:
        for dst in pods:
            _compare(index, table, src, dst, 80)


def test_workloads_that_policy_cannot_tell_apart_share_a_class() -> None:
    pods = [build.workload(f"w{n}", addresses=[f"10.0.0.{n}"]) for n in range(1, 5)]
    table = _table(*pods)
    assert set(table.src_class.values()) == {1}
    assert set(table.dst_class.values()) == {1}
    assert [key.port for key in table.verdicts] == [0]


def test_addresses_split_classes_only_where_a_rule_looks_at_them() -> None:
    pods = [build.workload(f"w{n}", addresses=[f"10.0.0.{n}"]) for n in range(1, 3)]
    deny = build.policy("d", PolicyAction.DENY, build.rule(L4Match(src_ips=(build.NETWORKS[1],))))
    assert set(_table(*pods, policies=[deny]).src_class.values()) == {1, 2}


def test_a_port_has_an_entry_only_where_its_verdict_differs() -> None:
    api = build.workload("api")
    deny = build.policy(
        "d", PolicyAction.DENY, build.rule(to=L4Match(dst_ports=frozenset({80, 443})))
    )
    table = _table(api, policies=[deny])
    verdicts = {key.port: value.verdict for key, value in table.verdicts.items()}
    expected = {0: KernelVerdict.ALLOW, 80: KernelVerdict.DENY, 443: KernelVerdict.DENY}
    assert verdicts == expected


def test_encrypt_sends_everything_through_ztunnel() -> None:
    api = build.workload("api")
    snapshot = build.snapshot(api, settings=replace(build.SETTINGS, same_node=SameNode.ENCRYPT))
    table = compile_kernel_policy(PolicyIndex.compile(snapshot), snapshot, "n1")
    assert look_up(table, api, api, 80) == (KernelVerdict.PROXY, None)


def test_only_enrolled_workloads_of_the_node_are_in_the_table() -> None:
    pods = (
        build.workload("here"),
        build.workload("there", node="n2"),
        build.workload("outside", enrolled=False),
    )
    assert list(_table(*pods).src_class) == ["pod/shop/here"]


def _table(*pods: Workload, policies: Sequence[AuthorizationPolicy] = ()) -> KernelPolicy:
    snapshot = build.snapshot(*pods, policies=policies)
    return compile_kernel_policy(PolicyIndex.compile(snapshot), snapshot, "n1")
