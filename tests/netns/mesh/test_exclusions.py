"""What pods may leave out of the mesh by annotation, and whose probes pass."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.lab import Node, Pod
from tests.lab.objects import POLICY_GROUP, KubeObject, kube_object, peer_authentication
from tests.lab.process import AS_NOBODY, NOBODY
from tests.netns.mesh.apps.serve import DIGEST, EXTRA, SPEAK_FIRST
from tests.netns.mesh.world import DIAL, PYTHON, Answer, Mesh, last_answer, own_port

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def excluding(mesh: Mesh) -> Mesh:
    """`picky` (on node a) leaves out ports, an address and a user; `far` an inbound port."""
    pod = mesh.add_pod(mesh.a, "picky")
    mesh.lab.settle()
    with mesh.changing():
        annotate(
            mesh,
            pod,
            {
                "exclude-outbound-ports": str(EXTRA),
                "exclude-outbound-cidrs": f"{mesh['near'].address4}/32, fd00:40:1::3/128",
                "exclude-outbound-uids": str(NOBODY),
            },
        )
    with mesh.changing():
        annotate(mesh, mesh["far"], {"exclude-inbound-ports": str(DIGEST)})
    for agent in mesh.agents:
        agent.wait_ready()
    return mesh


def annotate(mesh: Mesh, pod: Pod, notes: Mapping[str, str]) -> None:
    account, described = pod.objects()
    meta = described["metadata"]
    assert isinstance(meta, Mapping)
    old = meta["annotations"]
    assert isinstance(old, Mapping)
    added = {f"meshnode.io/{name}": text for name, text in notes.items()}
    changed: KubeObject = {**described, "metadata": {**meta, "annotations": {**old, **added}}}
    mesh.lab.apply(f"pod-default-{pod.name}", [account, changed])


def is_captured(answer: Answer) -> bool:
    """A captured connection has loopback as its own address: it was sent to ztunnel."""
    own = answer["own"]
    assert isinstance(own, list), answer
    return str(own[0]) in ("127.0.0.1", "::1")


def test_an_excluded_port_goes_out_as_it_is(excluding: Mesh) -> None:
    excluded = excluding.dial("picky", "far", EXTRA)
    assert not is_captured(excluded)
    inbound = excluding.record(port=own_port(excluded), direction="inbound")
    assert (inbound["path"], inbound["mutual_tls"]) == ("passthrough", False)
    assert is_captured(excluding.dial("picky", "far", SPEAK_FIRST))


@pytest.mark.parametrize("family", [4, 6])
def test_an_excluded_network_goes_out_as_it_is(excluding: Mesh, family: int) -> None:
    near = excluding["near"]
    answer = excluding.dial("picky", near.address4 if family == 4 else near.address6)
    assert answer["server"] == "near"
    record = excluding.record(port=own_port(answer), direction="inbound")
    assert record["path"] == "passthrough"


def test_an_excluded_user_goes_out_as_it_is(excluding: Mesh) -> None:
    far = excluding["far"].address4
    dial = [*PYTHON, str(DIAL), "blocking", far, str(SPEAK_FIRST)]
    nobody = [*AS_NOBODY, *dial]
    assert not is_captured(last_answer(excluding["picky"].run(nobody).check().stdout))
    assert is_captured(last_answer(excluding["picky"].run(dial).check().stdout))


def test_an_excluded_inbound_port_takes_plaintext_also_in_strict(excluding: Mesh) -> None:
    excluding.apply("strict", peer_authentication("default", "strict", mode="STRICT"))
    try:
        answer = excluding.dial("outsider", "far", DIGEST, do="upload", count=1000)
        assert answer["answer"] == answer["wanted"]
        assert excluding.dial("outsider", "far", SPEAK_FIRST)["error"] == "ECONNRESET"
    finally:
        excluding.delete("strict")


def probe(node: Node, pod: Pod) -> Answer:
    """What a kubelet does: the node itself connects."""
    argv = [*PYTHON, str(DIAL), "blocking", pod.address4, str(SPEAK_FIRST)]
    return last_answer(node.run(argv).check().stdout)


def test_probes_pass_in_strict_from_their_sources_only(excluding: Mesh) -> None:
    node, pod = excluding.b, excluding["far"]
    excluding.apply("strict", peer_authentication("default", "strict", mode="STRICT"))
    try:
        assert probe(node, pod)["error"] == "ECONNRESET"
        sources = [node.addresses.gateway4, node.addresses.gateway6]
        config = kube_object(POLICY_GROUP, "MeshConfig", "mesh", spec={"probeSources": sources})
        excluding.apply("config", config)
        answer = probe(node, pod)
        assert answer["seen_as"] == node.addresses.gateway4
        assert excluding.dial("outsider", "far")["error"] == "ECONNRESET"
        excluding.delete("config")
    finally:
        excluding.delete("strict")
