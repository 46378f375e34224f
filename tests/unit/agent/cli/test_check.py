"""`meshnode check`: what is judged how, and that every hint leads somewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import click
import pytest

from agent.admin.view import (
    CertificateState,
    HolderStatus,
    PodState,
)
from agent.capture.probe import Feature
from agent.cli.check import format_checks, format_short
from agent.cli.checks.facts import MachineFacts, NodeFacts
from agent.cli.checks.machine import machine_checks
from agent.cli.checks.node import node_checks
from agent.cli.checks.result import Anchor, Check, State
from agent.cli.checks.waypoints import waypoint_checks
from mesh.model.snapshot import Problem, Severity
from tests.unit.agent.admin.fake import STATUS
from tests.unit.agent.cli.invoke import meshnode

GUIDE = Path(__file__).parents[4] / "docs" / "troubleshooting.md"
NOW = 1_700_000_100.0

MACHINE = MachineFacts(
    is_root=True, python="3.11.2", missing_modules=(), has_bcc=True, has_seccomp=True,
    has_nghttp2=True, headers="/usr/src/linux-headers", headers_problem="",
    clock_synchronised=True, kernel="6.1.0", kernel_version=(6, 1), cgroup="/sys/fs/cgroup",
    has_bpffs=True, features=(Feature(name="BPF links", since="5.7", required=True, present=True),),
    metrics_port_taken=False,
)  # fmt: skip
WELL = replace(STATUS, pods=STATUS.pods[:1], problems=())
NODE = NodeFacts(
    node="n1", can_read_pins=True, pinned_maps=("mn_workload",), pinned_progs=("mn_connect4",),
    pinned_links=("mn_connect4",), status=WELL,
)  # fmt: skip


def feature(*, present: bool = True, required: bool = True) -> Feature:
    return Feature(name="ring buffer", since="5.8", present=present, required=required)


def bad(checks: Iterable[Check]) -> dict[str, State]:
    return {one.name: one.state for one in checks if one.state not in (State.OK, State.SKIPPED)}


def test_waypoints_and_what_traces_need() -> None:
    assert list(waypoint_checks({})) == []
    checks = list(waypoint_checks({"shop/gate": "", "shop/other": "not every worker serves yet"}))
    assert bad(checks) == {"shop/other": State.WARNING}
    assert "traceparent" in checks[-1].detail


def test_all_is_well() -> None:
    assert bad(machine_checks(MACHINE, agent_runs=True)) == {}
    assert bad(node_checks(NODE, NOW)) == {}


@pytest.mark.parametrize(
    ("facts", "name", "state"),
    [
        (replace(MACHINE, is_root=False), "running as root", State.WARNING),
        (replace(MACHINE, missing_modules=("h2",)), "Python and its modules", State.FAILED),
        (replace(MACHINE, has_bcc=False), "bcc", State.FAILED),
        (replace(MACHINE, has_seccomp=False), "libseccomp", State.FAILED),
        (replace(MACHINE, has_nghttp2=False), "HTTP/2 engine", State.WARNING),
        (replace(MACHINE, headers="", headers_problem="none"), "kernel headers", State.FAILED),
        (replace(MACHINE, clock_synchronised=False), "clock synchronised", State.WARNING),
        (replace(MACHINE, kernel_version=(5, 10)), "version", State.FAILED),
        (replace(MACHINE, cgroup=""), "cgroup v2", State.FAILED),
        (replace(MACHINE, has_bpffs=False), "bpffs", State.FAILED),
        (replace(MACHINE, metrics_port_taken=True), "port 15020 for metrics", State.WARNING),
        (
            replace(MACHINE, features=(feature(present=False),)),
            "ring buffer",
            State.FAILED,
        ),
        (
            replace(
                MACHINE,
                features=(feature(present=False, required=False),),
            ),
            "ring buffer",
            State.WARNING,
        ),
    ],
)
def test_each_fault_of_a_machine(facts: MachineFacts, name: str, state: State) -> None:
    assert bad(machine_checks(facts, agent_runs=False)) == {name: state}


@pytest.mark.parametrize(
    ("facts", "name", "state"),
    [
        (replace(NODE, missing_maps=("mn_grant",)), "pins", State.FAILED),
        (replace(NODE, pinned_links=()), "links", State.FAILED),
        (replace(NODE, other_schemas=("v0",)), "schema", State.FAILED),
        (replace(NODE, status=None, no_status="nobody there"), "running", State.WARNING),
        (replace(NODE, status=replace(WELL, not_ready=("x",))), "ready", State.FAILED),
        (
            replace(NODE, status=replace(WELL, applied_revision=5)),
            "newest objects applied",
            State.WARNING,
        ),
        (replace(NODE, status=replace(WELL, holder=None)), "holder", State.FAILED),
        (
            replace(NODE, status=replace(WELL, holder=HolderStatus(pid=1, alive=False))),
            "holder",
            State.FAILED,
        ),
        (replace(NODE, status=replace(WELL, workers=())), "workers", State.FAILED),
        (
            replace(
                NODE,
                status=replace(
                    WELL, workers=(*WELL.workers, replace(WELL.workers[0], pid=9, ready=False))
                ),
            ),
            "workers",
            State.WARNING,
        ),
        (
            replace(
                NODE,
                status=replace(
                    WELL,
                    certificates=(replace(WELL.certificates[0], state=CertificateState.EXPIRED),),
                ),
            ),
            "certificates",
            State.FAILED,
        ),
        (
            replace(NODE, status=replace(WELL, pods=STATUS.pods)),
            "pods captured (canary)",
            State.FAILED,
        ),
        (
            replace(
                NODE,
                status=replace(WELL, pods=(replace(WELL.pods[0], state=PodState.PENDING),)),
            ),
            "pods captured (canary)",
            State.WARNING,
        ),
        (replace(NODE, status=replace(WELL, problems=STATUS.problems)), "objects", State.FAILED),
        (
            replace(
                NODE,
                status=replace(
                    WELL,
                    problems=(
                        Problem(where="x", subject="", message="m", severity=Severity.WARNING),
                    ),
                ),
            ),
            "objects",
            State.WARNING,
        ),
    ],
)
def test_each_fault_of_a_node(facts: NodeFacts, name: str, state: State) -> None:
    assert bad(node_checks(facts, NOW)) == {name: state}


def test_a_certificate_about_to_expire_is_a_warning() -> None:
    almost = STATUS.certificates[0].not_after - 60
    assert bad(node_checks(NODE, almost)) == {"certificates": State.WARNING}


def test_a_machine_without_a_node_has_only_a_warning() -> None:
    facts = NodeFacts(node="n1", can_read_pins=True, no_status="no agent")
    assert bad(node_checks(facts, NOW)) == {"running": State.WARNING}


def test_every_hint_leads_to_a_heading_and_every_heading_is_used() -> None:
    headings = set(re.findall(r"^## (\S+)$", GUIDE.read_text(), re.MULTILINE))
    assert headings == {str(anchor) for anchor in Anchor}


def test_the_forms_for_people() -> None:
    checks = list(machine_checks(replace(MACHINE, has_bcc=False), agent_runs=False))
    text = click.unstyle(format_checks(checks))
    assert "machine\n  ✓ running as root\n" in text
    assert "  ✗ bcc: not importable\n      install" in text
    assert "see docs/troubleshooting.md#bcc" in text
    assert text.endswith("1 failed, 0 skipped")
    short = format_short(checks).splitlines()
    assert short[0] == "failed: machine: bcc: not importable"
    assert len(short) == 2


def test_on_this_machine() -> None:
    result = meshnode("check", "-o", "json")
    body = json.loads(result.stdout)
    failed = [one for one in body["checks"] if one["state"] == "failed"]
    assert body["passed"] is (not failed)
    assert result.exit_code == (1 if failed else 0)
    assert {one["group"] for one in body["checks"]} >= {"machine", "kernel", "agent"}
