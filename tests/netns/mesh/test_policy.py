"""Policy on every path: each case is asked of the kernel (direct), of ztunnel (encrypted inside the
node), across nodes, and of plaintext clients; all must give one answer and name the same rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.lab.objects import (
    POLICY_GROUP,
    Json,
    KubeObject,
    authorization_policy,
    kube_object,
    peer_authentication,
)
from tests.netns.mesh.apps.serve import EXTRA, SPEAK_FIRST
from tests.netns.mesh.world import Answer, Mesh, own_port

pytestmark = pytest.mark.root

SOURCES = ("client", "cousin", "outsider")
"""Of namespace default, of namespace cousins (both enrolled), and without identity."""
ROUTES = tuple((src, dst) for src in SOURCES for dst in ("near", "far"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A policy and whom it lets in; `rule` is what a denial's record must say."""

    name: str
    policy: KubeObject
    allowed: Sequence[str]
    rule: str = ""
    port: int = SPEAK_FIRST
    mentioned: str = ""


def source(**fields: Json) -> Json:
    return {"from": [{"source": fields}]}


def case(
    name: str, action: str, rules: Sequence[Json], allowed: Sequence[str], port: int = SPEAK_FIRST
) -> Case:
    policy = authorization_policy("default", name, action=action, rules=rules)
    # What is not matched by any rule of an ALLOW policy is denied by the policy as a whole.
    rule = f"default/{name}" + (" rule[0]" if action == "DENY" else "")
    return Case(name=name, policy=policy, allowed=allowed, rule=rule, port=port)


def only_noted(name: str, action: str, field: str, *, dry_run: bool) -> Case:
    annotations = {"meshnode.io/dry-run": "true"} if dry_run else {}
    policy = kube_object(
        POLICY_GROUP,
        "AuthorizationPolicy",
        name,
        namespace="default",
        annotations=annotations,
        spec={"action": action, "rules": [{}]},
    )
    return Case(name=name, policy=policy, allowed=SOURCES, mentioned=field)


CASES = [
    case(
        "by-principal", "ALLOW", [source(principals=["cluster.local/ns/default/sa/client"])],
        ["client"],
    ),
    case("by-account", "ALLOW", [source(serviceAccounts=["default/client"])], ["client"]),
    case("by-namespace", "DENY", [source(namespaces=["cousins"])], ["client", "outsider"]),
    case("not-namespace", "DENY", [source(notNamespaces=["default"])], ["client"]),
    case(
        "by-address", "DENY", [source(ipBlocks=["10.40.1.2/32", "fd00:40:1::2/128"])],
        ["cousin", "outsider"],
    ),
    # The other family is let in: one verdict of the kernel cannot say that, so ztunnel decides.
    case("by-family", "DENY", [source(ipBlocks=["10.40.1.2"])], ["cousin", "outsider"]),
    case(
        "by-port", "DENY", [{"to": [{"operation": {"ports": [str(EXTRA)]}}]}], [], port=EXTRA,
    ),
    case(
        "other-port", "DENY", [{"to": [{"operation": {"ports": [str(EXTRA)]}}]}], SOURCES,
    ),
    case("nobody", "ALLOW", [], []),
    only_noted("dry", "DENY", "dry_run", dry_run=True),
    only_noted("audit", "AUDIT", "audited", dry_run=False),
    Case(
        name="strict",
        policy=peer_authentication("default", "strict", mode="STRICT"),
        allowed=["client", "cousin"],
        rule="PeerAuthentication default/strict",
    ),
    Case(
        name="permissive",
        policy=peer_authentication("default", "permissive", mode="PERMISSIVE"),
        allowed=SOURCES,
    ),
]  # fmt: skip


@pytest.fixture(scope="module", params=["direct", "encrypt"])
def settled(mesh: Mesh, request: pytest.FixtureRequest) -> Iterator[tuple[Mesh, str]]:
    """The mesh with the setting for pods of one node, which is also the expected path."""
    if "cousin" not in mesh.a.pods:
        mesh.lab.namespace("cousins", enrolled=True)
        mesh.add_pod(mesh.a, "cousin", namespace="cousins")
        mesh.lab.settle()
    same_node: str = request.param
    if same_node == "direct":  # the default
        yield mesh, "direct"
        return
    mesh.apply(
        "config", kube_object(POLICY_GROUP, "MeshConfig", "mesh", spec={"sameNode": same_node})
    )
    yield mesh, "hbone"
    mesh.delete("config")


@pytest.mark.parametrize("asked", CASES, ids=[case.name for case in CASES])
def test_one_answer_everywhere(settled: tuple[Mesh, str], asked: Case) -> None:
    mesh, local_path = settled
    mesh.apply("policy", asked.policy)
    try:
        mesh.forget_records()
        for (src, dst), answer in mesh.dial_all(ROUTES, asked.port).items():
            path = path_of(asked, src, dst, local_path)
            if src in asked.allowed:
                assert_let_in(mesh, asked, (src, dst, path), answer)
            else:
                assert_denied(mesh, asked, (src, dst, path), answer)
    finally:
        mesh.delete("policy")


def path_of(asked: Case, src: str, dst: str, local: str) -> str:
    """Which way a connection goes; `local` is that of enrolled pods inside a node."""
    if src == "outsider":
        return "passthrough"
    undecided = asked.name == "by-family" and src == "client"
    return "hbone" if dst == "far" or undecided else local


def assert_let_in(mesh: Mesh, asked: Case, way: tuple[str, str, str], answer: Answer) -> None:
    src, dst, path = way
    assert answer.get("server") == dst, f"{src} to {dst}: {answer}"
    side = "outbound" if path == "direct" else "inbound"
    record = mesh.record(port=own_port(answer), src_workload=src, dst_workload=dst, direction=side)
    assert record["path"] == path
    if asked.mentioned:
        assert f"default/{asked.name}" in str(record.get(asked.mentioned)), record


def assert_denied(mesh: Mesh, asked: Case, way: tuple[str, str, str], answer: Answer) -> None:
    src, dst, path = way
    side = "outbound" if path == "direct" else "inbound"
    refusal = "ECONNREFUSED" if path == "direct" else "ECONNRESET"
    assert answer.get("error") == refusal, f"{src} to {dst} by {path}: {answer}"
    wanted = {"src_workload": src, "dst_workload": dst, "flag": "DENY", "path": path}
    record = mesh.next_record(0, **wanted, direction=side)
    assert asked.rule in str(record.get("policy")), record


def test_a_policy_that_needs_l7_denies_and_says_so(mesh: Mesh) -> None:
    rules: Sequence[Json] = [{"to": [{"operation": {"methods": ["GET"]}}]}]
    mesh.apply("l7", authorization_policy("default", "l7", rules=rules))
    try:
        for dst in ("near", "far"):
            assert "error" in mesh.dial("client", dst)
            mesh.record(src_workload="client", dst_workload=dst, flag="DENY",
                        direction="inbound", mentions="default/l7")  # fmt: skip
        assert "l7" in mesh.a.meshnode("status").stdout
    finally:
        mesh.delete("l7")
