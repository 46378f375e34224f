"""A waypoint as a process in a pod of a lab, started through its command line."""

from __future__ import annotations

from collections.abc import Mapping

from agent.options import DEFAULT_CA_PORT
from tests.lab.agent import MESHNODE, MESHNODE_ENVIRONMENT
from tests.lab.process import Process, run
from tests.lab.system import eventually
from tests.lab.topology import Node, Pod

ADMIN_URL = "http://127.0.0.1:15021"


def waypoint_labels(gateway: str) -> Mapping[str, str]:
    """Labels of the pod of a Gateway, as the controller gives them."""
    return {
        "gateway.networking.k8s.io/gateway-name": gateway,
        "gateway.networking.k8s.io/gateway-class-name": "meshnode-waypoint",
    }


def start_waypoint(
    pod: Pod, gateway: str, *options: str, ca_node: Node, workers: int = 1
) -> Process:
    """Start the waypoint of `gateway` (NAMESPACE/NAME) in its pod.

    It joins the certificate authority that the agent of `ca_node` holds, as the pod's service
    account.
    """
    lab = pod.node.lab
    token_file = lab.directory / f"join-waypoint-{pod.name}"
    argv = [*MESHNODE, "token", "create", pod.node.name, "--ca", str(lab.directory / "ca")]
    token = run(ca_node.place, argv, env=MESHNODE_ENVIRONMENT).check().stdout
    token_file.touch(mode=0o600)
    token_file.write_text(token)
    arguments = ["waypoint", "--name", gateway, "--service-account", pod.service_account]
    arguments += ["--source", f"file:{lab.objects.path}", "--node", pod.node.name]
    arguments += ["--workers", str(workers), "--join-token-file", str(token_file)]
    arguments += ["--ca-address", f"{ca_node.addresses.underlay4}:{DEFAULT_CA_PORT}"]
    arguments += ["--drain-timeout", "1s", *options]
    return lab.start_meshnode(pod.place, f"waypoint-{pod.name}", *arguments)


def wait_ready(pod: Pod, deadline_s: float = 60.0) -> None:
    """Wait until the waypoint in the pod serves."""
    argv = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"{ADMIN_URL}/healthz"]
    eventually(lambda: pod.run(argv).stdout == "200", deadline_s, "the waypoint is ready")
