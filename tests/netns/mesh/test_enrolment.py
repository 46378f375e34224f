"""Pods that come into the mesh, leave it, change, and vanish while they have connections."""

from __future__ import annotations

import pytest

from agent.admin.view import PodState
from tests.lab import Pod, Process, eventually
from tests.lab.network import plug_pod
from tests.lab.objects import DATAPLANE_LABEL
from tests.lab.system import command
from tests.netns.mesh.apps.serve import DIGEST
from tests.netns.mesh.world import OUTSIDE, Answer, Mesh, last_answer, status

pytestmark = pytest.mark.root


def is_captured(answer: Answer) -> bool:
    own = answer["own"]
    assert isinstance(own, list), answer
    return str(own[0]) in ("127.0.0.1", "::1")


def state(mesh: Mesh, name: str) -> str:
    """State of a pod, "absent" if its node's agent does not have it."""
    pod = mesh[name]
    agent = pod.node.running_agent
    assert agent is not None
    found = [p.state for p in status(agent).pods if p.name == name]
    return str(found[0]) if found else "absent"


def wait_state(mesh: Mesh, name: str, wanted: str) -> None:
    eventually(lambda: state(mesh, name) == wanted, 30.0, f"{name} is {wanted}")


def relabel(mesh: Mesh, pod: Pod, **labels: str) -> None:
    pod.labels = {"app": pod.name, **labels}
    with mesh.changing():
        mesh.lab.apply(f"pod-{pod.namespace}-{pod.name}", pod.objects())


def label(value: str) -> dict[str, str]:
    return {DATAPLANE_LABEL: value}


def stays_up(*processes: Process) -> None:
    for process in processes:
        assert process.running, process.output


def test_a_pod_is_enrolled_and_let_go_by_its_label(mesh: Mesh) -> None:
    """Its plain connections go on after enrolment and after the pod has left; new ones follow the
    label."""
    pod = mesh.add_pod(mesh.a, "mover", namespace=OUTSIDE)
    mesh.lab.settle()
    outgoing, incoming = mesh.open("mover", "stranger"), mesh.open("outsider", "mover")
    assert not is_captured(mesh.dial("mover", "far"))
    relabel(mesh, pod, **label("enabled"))
    wait_state(mesh, "mover", PodState.ACTIVE)
    stays_up(outgoing, incoming)
    assert is_captured(mesh.dial("mover", "far"))
    answer = mesh.dial("far", "mover")
    assert (is_captured(answer), answer["server"]) == (True, "mover")
    relabel(mesh, pod)
    wait_state(mesh, "mover", "absent")
    stays_up(outgoing, incoming)
    assert not is_captured(mesh.dial("mover", "far"))
    assert not is_captured(mesh.dial("far", "mover"))
    assert mesh.dial("mover", "near")["server"] == "near"


def test_a_namespace_is_enrolled_and_let_go_by_its_label(mesh: Mesh) -> None:
    mesh.lab.namespace("late", enrolled=False)
    mesh.add_pod(mesh.a, "late-a", namespace="late")
    mesh.add_pod(mesh.b, "late-b", namespace="late")
    mesh.lab.settle()
    assert not is_captured(mesh.dial("late-a", "late-b"))
    connection = mesh.open("late-a", "late-b")
    with mesh.changing():
        mesh.lab.namespace("late", enrolled=True)
    for name in ("late-a", "late-b"):
        wait_state(mesh, name, PodState.ACTIVE)
    stays_up(connection)
    assert is_captured(mesh.dial("late-a", "late-b"))
    with mesh.changing():
        mesh.lab.namespace("late", enrolled=False)
    for name in ("late-a", "late-b"):
        wait_state(mesh, name, "absent")
    stays_up(connection)
    assert not is_captured(mesh.dial("late-a", "late-b"))


def test_unenrolled_pods_are_untouched(mesh: Mesh) -> None:
    for pod in (mesh["outsider"], mesh["stranger"]):
        assert pod.run(["ip", "rule", "list", "fwmark", "0x539"]).check().stdout == ""
        listening = pod.run(["ss", "-Htln"]).check().stdout
        assert not any(f":{port} " in listening for port in (15001, 15006, 15008)), listening
    answer = mesh.dial("outsider", "stranger", DIGEST, do="upload", count=1000)
    assert not is_captured(answer)


def test_a_replaced_namespace_is_enrolled_anew(mesh: Mesh) -> None:
    """As after a crash of the pod's sandbox: same pod, same address, another namespace."""
    pod = mesh.add_pod(mesh.a, "phoenix")
    mesh.lab.settle()
    wait_state(mesh, "phoenix", PodState.ACTIVE)
    cookie = cookie_of(mesh, "phoenix")
    assert mesh.dial("far", "phoenix")["server"] == "phoenix"
    number = list(mesh.a.pods).index("phoenix") + 1
    mesh.apps["phoenix"].kill()
    command(["ip", "-n", mesh.a.netns, "link", "del", f"pod{number}"])
    command(["ip", "netns", "del", pod.place.netns])
    plug_pod(mesh.a.netns, pod.place.netns, mesh.a.addresses, number)
    mesh.start_app(pod)
    eventually(lambda: cookie_of(mesh, "phoenix") not in ("", cookie), 30.0, "a new cookie")
    wait_state(mesh, "phoenix", PodState.ACTIVE)
    assert is_captured(mesh.dial("phoenix", "far"))
    answer = mesh.dial("far", "phoenix")
    assert (answer["server"], answer["seen_as"]) == ("phoenix", mesh["far"].address4)
    assert mesh.dial("client", "phoenix")["server"] == "phoenix"


def cookie_of(mesh: Mesh, name: str) -> str:
    agent = mesh[name].node.running_agent
    assert agent is not None
    return next((pod.cookie for pod in status(agent).pods if pod.name == name), "")


def test_a_deleted_pod_ends_its_connections_and_leaves_nothing(mesh: Mesh) -> None:
    """First the object goes, then, as always, the sandbox."""
    pod = mesh.add_pod(mesh.b, "doomed")
    mesh.lab.settle()
    wait_state(mesh, "doomed", PodState.ACTIVE)
    from_client = mesh.open("client", "doomed")
    assert mesh.dial("doomed", "client")["server"] == "client"  # by a tunnel of its own
    with mesh.changing():
        mesh.lab.delete("pod-default-doomed")
    wait_state(mesh, "doomed", "absent")
    assert last_answer(from_client.wait(30.0).stdout)["ended"] in ("ECONNRESET", "eof")
    mesh.apps["doomed"].kill()
    number = list(mesh.b.pods).index("doomed") + 1
    command(["ip", "netns", "del", pod.place.netns])
    # The link goes with the namespace, which lives as long as anybody holds it or a socket in it.
    eventually(lambda: not _has_link(mesh, number), 60.0, "nobody holds its namespace")
    eventually(lambda: _is_clean(mesh), 30.0, "the kernel forgets it")
    assert mesh.dial("client", "far")["server"] == "far"


def _has_link(mesh: Mesh, number: int) -> bool:
    return mesh.b.run(["ip", "link", "show", f"pod{number}"]).status == 0


def _is_clean(mesh: Mesh) -> bool:
    diff = mesh.b.meshnode("bpf", "diff")
    assert diff.status == 0, diff.stdout + diff.stderr
    links = mesh.b.meshnode("bpf", "links").stdout
    assert "defunct" not in links, links
    return True
