"""Reconciling against tables in memory."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from agent.capture.desired import (
    AgentCgroup,
    ConfigEntry,
    KernelState,
    PodEntry,
    ServiceEntry,
    WorkloadEntry,
)
from agent.capture.maps import decode_config, encode_cookie, encode_pod, encode_state
from agent.capture.reconcile import reconcile
from bpf.layout import ConfigFlag
from mesh.errors import KernelError
from mesh.model.address import SocketAddress
from mesh.model.kernel import KernelVerdict, VerdictKey, VerdictValue
from tests.unit.agent.capture.memory_tables import MemoryTables

ALLOW = VerdictValue(KernelVerdict.ALLOW, 0)
IP = ip_address("10.0.0.1")


STATE = KernelState(
    config=ConfigEntry(agent=AgentCgroup(id=1, level=1)),
    pods={5: PodEntry(workload=1, src_class=1)},
    workloads={IP: WorkloadEntry(workload=1, netns_cookie=5, dst_class=1)},
    services={
        SocketAddress(IP, 80): ServiceEntry(
            service=9, backends=(SocketAddress(IP, 1), SocketAddress(IP, 2))
        )
    },
    verdicts={VerdictKey(1, 1, 0): ALLOW},
    exclusions=frozenset(),
    excluded_nets=frozenset(),
    probes=frozenset({IP}),
)


@pytest.fixture
def tables() -> MemoryTables:
    made = MemoryTables()
    made["mn_enrolled"].update(encode_cookie(5), encode_pod(PodEntry(workload=1)))
    made.log.clear()
    return made


def test_twice_changes_nothing(tables: MemoryTables) -> None:
    assert reconcile(tables, STATE).changed
    wanted = {name: entries for name, entries in encode_state(STATE).items() if entries}
    assert tables.content() == wanted
    summary = reconcile(tables, STATE)
    assert not summary.changed
    assert (summary.written, summary.removed) == ({}, {})


def test_pods_are_refreshed_never_added_or_removed(tables: MemoryTables) -> None:
    reconcile(tables, replace(STATE, pods={6: PodEntry(workload=2)}))
    assert set(tables["mn_enrolled"].entries) == {encode_cookie(5)}


def test_what_is_pointed_at_comes_first_and_goes_last(tables: MemoryTables) -> None:
    reconcile(tables, STATE)
    assert tables.log.index(("write", "mn_backend")) < tables.log.index(("write", "mn_service"))
    assert tables.log[-1] == ("write", "mn_config")
    tables.log.clear()
    reconcile(tables, replace(STATE, services={}))
    assert tables.log.index(("delete", "mn_service")) < tables.log.index(("delete", "mn_backend"))


def test_verdicts_are_emptied_while_classes_move(tables: MemoryTables) -> None:
    reconcile(tables, STATE)
    tables.log.clear()
    moved = {IP: replace(STATE.workloads[IP], dst_class=2)}
    reconcile(tables, replace(STATE, workloads=moved))
    steps = [step for step in tables.log if step[1] in ("mn_verdict", "mn_workload")]
    assert steps == [("delete", "mn_verdict"), ("write", "mn_workload"), ("write", "mn_verdict")]


def test_changed_verdict_is_withdrawn_before_it_is_replaced(tables: MemoryTables) -> None:
    reconcile(tables, STATE)
    tables.log.clear()
    deny = VerdictValue(KernelVerdict.DENY, 1)
    reconcile(tables, replace(STATE, verdicts={VerdictKey(1, 1, 0): deny}))
    assert tables.log == [("delete", "mn_verdict"), ("write", "mn_verdict")]


def test_full_map_is_an_error_and_closes_the_rest(tables: MemoryTables) -> None:
    tables["mn_workload"].limit = 0
    with pytest.raises(KernelError, match="mn_workload"):
        reconcile(tables, STATE)
    settings = decode_config(tables["mn_config"].entries[bytes(4)])
    assert ConfigFlag.INCOMPLETE in settings.flags
    assert tables["mn_verdict"].entries  # what fits is there
    tables["mn_workload"].limit = 10
    reconcile(tables, STATE)
    settings = decode_config(tables["mn_config"].entries[bytes(4)])
    assert ConfigFlag.INCOMPLETE not in settings.flags
