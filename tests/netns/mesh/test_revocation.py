"""A change of the mesh ends the connections that it forbids, on every path, and no other one."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import Process
from tests.lab.objects import authorization_policy, peer_authentication
from tests.netns.mesh.world import Mesh, last_answer

pytestmark = pytest.mark.root

CUT_WITHIN_S = 30.0
"""It takes milliseconds, but on a machine that has other work."""
CUT = {"ECONNRESET", "ECONNABORTED"}
PATHS = {
    "hbone": ("client", "far"),
    "direct": ("client", "near"),
    "passthrough": ("outsider", "far"),
}


@pytest.fixture
def open_ones(mesh: Mesh) -> Iterator[dict[str, Process]]:
    """One connection per path, and one that no test forbids."""
    opened = {path: mesh.open(src, dst) for path, (src, dst) in PATHS.items()}
    opened["bystander"] = mesh.open("far", "near")
    yield opened
    for process in opened.values():
        process.kill()


def assert_cut(mesh: Mesh, process: Process, path: str, rule: str) -> None:
    started = time.monotonic()
    answer = last_answer(process.wait(CUT_WITHIN_S).stdout)
    print(f"{path} cut after {time.monotonic() - started:.3f} s")
    assert answer["ended"] in CUT
    src, dst = PATHS[path]
    side = "outbound" if path == "direct" else "inbound"
    own = answer["own"]
    assert isinstance(own, list)
    record = mesh.record(port=own[1], src_workload=src, dst_workload=dst, direction=side, path=path)
    assert record["flag"] == "POLICY_CHANGE"
    assert rule in f"{record.get('policy')} {record.get('error')}", record


def assert_alive(*processes: Process) -> None:
    for process in processes:
        assert process.running, process.output


def test_a_new_policy_with_a_selector(mesh: Mesh, open_ones: dict[str, Process]) -> None:
    rules = [{"from": [{"source": {"notPrincipals": ["*/sa/far"]}}]}]
    for name in ("near", "far"):
        mesh.lab.apply(
            f"cut-{name}",
            authorization_policy(
                "default", f"cut-{name}", action="DENY", selector={"app": name}, rules=rules
            ),
        )
    try:
        for path, (_, dst) in PATHS.items():
            assert_cut(mesh, open_ones[path], path, f"default/cut-{dst} rule[0]")
        assert_alive(open_ones["bystander"])
    finally:
        mesh.lab.delete("cut-near")
        mesh.lab.delete("cut-far")
        mesh.lab.settle()


def test_a_relabelled_pod(mesh: Mesh, open_ones: dict[str, Process]) -> None:
    rules = [{"from": [{"source": {"principals": ["*/sa/far"]}}]}]
    policy = authorization_policy("default", "guard", selector={"guarded": "yes"}, rules=rules)
    mesh.apply("guard", policy)
    try:
        assert_alive(*open_ones.values())
        for name in ("near", "far"):
            relabel(mesh, name, guarded="yes")
        for path in PATHS:
            assert_cut(mesh, open_ones[path], path, "default/guard")
        assert_alive(open_ones["bystander"])
    finally:
        for name in ("near", "far"):
            relabel(mesh, name)
        mesh.lab.delete("guard")
        mesh.lab.settle()


def relabel(mesh: Mesh, name: str, **labels: str) -> None:
    pod = mesh[name]
    pod.labels = {"app": name, **labels}
    mesh.lab.apply(f"pod-default-{name}", pod.objects())


def test_a_deleted_allow(mesh: Mesh, open_ones: dict[str, Process]) -> None:
    far = [{"from": [{"source": {"principals": ["*/sa/far"]}}]}]
    mesh.apply("all", authorization_policy("default", "all", rules=[{}]))
    mesh.apply("some", authorization_policy("default", "some", rules=far))
    try:
        assert_alive(*open_ones.values())
        mesh.lab.delete("all")
        for path in PATHS:
            assert_cut(mesh, open_ones[path], path, "default/some")
        assert_alive(open_ones["bystander"])
    finally:
        mesh.lab.delete("some")
        mesh.lab.settle()


def test_strict_switched_on(mesh: Mesh, open_ones: dict[str, Process]) -> None:
    mesh.apply("strict", peer_authentication("default", "strict", mode="STRICT"))
    try:
        assert_cut(
            mesh, open_ones["passthrough"], "passthrough", "PeerAuthentication default/strict"
        )
        assert_alive(open_ones["hbone"], open_ones["direct"], open_ones["bystander"])
    finally:
        mesh.delete("strict")


def test_a_policy_that_changes_nothing_cuts_nothing(
    mesh: Mesh, open_ones: dict[str, Process]
) -> None:
    mesh.apply("idle", authorization_policy("default", "idle", rules=[{}]))
    assert_alive(*open_ones.values())
    mesh.delete("idle")
    assert_alive(*open_ones.values())
