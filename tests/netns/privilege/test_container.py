"""The agent with what its container in a cluster has, and nothing else."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator

import pytest

from agent.admin.client import AdminClient, AgentNotRunning, AgentRefused
from agent.admin.view import PodState
from installer.agent import CAPABILITIES
from tests.lab import Lab, Node, Pod, Process, eventually
from tests.lab.agent import MESHNODE, REPOSITORY

pytestmark = [pytest.mark.root, pytest.mark.slow]

PORT = 8080
SERVE = (sys.executable, "-m", "http.server", str(PORT))


def contained(command: list[str], capabilities: tuple[str, ...]) -> list[str]:
    """A command as a runtime starts it: own mounts, read-only root and sysctls, few rights."""
    rights = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
    inner = ["setpriv", f"--bounding-set={rights}", "--inh-caps=-all", "--", *command]
    here = shlex.quote(str(REPOSITORY))
    script = " && ".join(
        (
            "mount --rbind /run /run",
            # A clone below /tmp stays visible behind the container's own /tmp.
            f"mount --bind {here} /mnt",
            "mount -t tmpfs tmpfs /tmp",
            f"mkdir -p {here}",
            f"mount --bind /mnt {here}",
            "mount --bind /proc/sys /proc/sys",
            "mount -o remount,bind,ro,nosuid,nodev,noexec,relatime /proc/sys",
            "mount -o remount,bind,ro /",
            f"exec {shlex.join(inner)}",
        )
    )
    return ["unshare", "--mount", "--propagation=slave", "sh", "-c", script]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("container") as made:
        yield made


def start(node: Node, capabilities: tuple[str, ...]) -> Process:
    """The agent in such a container."""
    arguments = ["agent", "--node", node.name, "--source", f"file:{node.lab.objects.path}"]
    arguments += ["--cgroup", str(node.pods_cgroup), "--workers=1", "--drain-timeout=1s"]
    arguments += node.lab.ca_options(node)
    return node.lab.start(node.place, "contained", contained([*MESHNODE, *arguments], capabilities))


def states(node: Node) -> dict[str, PodState]:
    try:
        status = AdminClient(node.name, node.paths.admin_socket).status()
    except (AgentNotRunning, AgentRefused):
        return {}
    return {pod.name: pod.state for pod in status.pods}


def pods(lab: Lab) -> tuple[Node, Pod, Pod]:
    node = lab.node("a")
    lab.namespace("default", enrolled=True)
    client, server = node.pod("client"), node.pod("server")
    server.start(SERVE).wait_listening(PORT)
    return node, client, server


def test_the_capabilities_of_the_daemon_set_suffice(lab: Lab) -> None:
    node, client, server = pods(lab)
    process = start(node, tuple(CAPABILITIES))
    try:
        both = {"client": PodState.ACTIVE, "server": PodState.ACTIVE}
        eventually(lambda: states(node) == both, 60, "both pods are captured")
        argv = ["curl", "-sS", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code}"]
        answer = client.run([*argv, f"http://{server.address4}:{PORT}/"])
        assert answer.stdout == "200"
        assert "made /proc/sys writable" in process.output
    except AssertionError as error:
        error.add_note(process.output[-6000:])
        raise
    finally:
        process.stop()
        arguments = ["uninstall", "--yes", "--node", node.name, "--cni-conf-dir=/nonexistent"]
        cleaned = node.run(contained([*MESHNODE, *arguments], tuple(CAPABILITIES)))
    # The clean-up pods have no more rights than the agents.
    cleaned.check()
    assert not node.paths.pin_root.exists()
