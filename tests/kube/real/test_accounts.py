"""The accounts' own tokens and roles are enough for what agents and controller do, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from agent.admin.server import NotAllowed
from controller.kubernetes.run import ClusterSettings, run_cluster_controller
from controller.kubernetes.token_review import Account
from controller.run import ControllerPorts, ControllerSettings
from controller.waypoints.manifests import WaypointSettings
from mesh.run_files import OPERATOR, operator_audience
from mesh.sources.kubernetes.resources import RESOURCES
from mesh.sources.kubernetes.source import open_kubernetes
from mesh.sources.kubernetes.transport import MERGE_PATCH, KubeApi
from tests.kube.accounts import gate_of
from tests.kube.led import GATEWAY_API, gateway, route
from tests.kube.real.cluster import SYSTEM, Cluster, eventually
from tests.kube.test_token_review import ask
from tests.support.processes import free_port

TIMEOUT_S = 110.0
CONTROLLER = f"system:serviceaccount:{SYSTEM}:meshnode-controller"
AGENT = f"system:serviceaccount:{SYSTEM}:meshnode-agent"
AUDIENCE = "meshnode-ca"
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "api", "namespace": "shop"},
    "spec": {"selector": {"app": "here"}, "ports": [{"name": "http", "port": 80}]},
}
POLICIES = [
    {
        "apiVersion": "meshnode.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": spec,
    }
    for kind, spec in {
        "AuthorizationPolicy": {"action": "DENY", "rules": []},
        "PeerAuthentication": {"mtls": {"mode": "PERMISSIVE"}},
        "TrafficPolicy": {"targetRefs": [{"group": "", "kind": "Service", "name": "api"}]},
    }.items()
]


def refused(cluster: Cluster, user: str) -> set[tuple[str, str, str]]:
    return {one.permission for one in cluster.audited(user) if one.response_status.code == 403}


@pytest.fixture(scope="module")
def shop(cluster: Cluster) -> Iterator[str]:
    """A namespace of the mesh with two pods of different nodes; agents run on one."""
    name = cluster.namespace("shop")
    cluster.kubectl("label", "namespace", name, "meshnode.io/dataplane=enabled")
    cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}})
    for account, node in (("here", "n1"), ("there", "n2")):
        cluster.kubectl("-n", name, "create", "serviceaccount", account)
        cluster.pod(name, account, account, node)
        cluster.runs(name, account, f"10.1.0.{node.removeprefix('n')}")
    cluster.pod(SYSTEM, "agent-x", "meshnode-agent")
    cluster.pod(SYSTEM, "controller-x", "meshnode-controller")
    yield name
    for namespace in (name, SYSTEM):
        cluster.end_pods(namespace)
    cluster.kubectl("delete", "namespace", name, "--timeout=90s")


def with_controller(
    cluster: Cluster, path: Path, script: Callable[[ControllerPorts], Awaitable[None]]
) -> None:
    """Run a whole controller with the token of its pod while the script runs."""
    token = cluster.token(SYSTEM, "meshnode-controller", "controller-x")
    settings = ClusterSettings(
        kubeconfig=cluster.server.kubeconfig_of(token),
        namespace=SYSTEM,
        identity="controller-x",
        agents=Account(namespace=SYSTEM, name="meshnode-agent"),
        waypoints=WaypointSettings(image="meshnode:1", ca_address="ca:15012"),
        webhook_port=free_port(),
    )

    async def run() -> None:
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        local = ControllerSettings(
            state_dir=path / "state", host="127.0.0.1", port=0, health_port=None
        )
        async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
            group.create_task(
                run_cluster_controller(settings, local, stop=stop, on_ready=ready.set_result)
            )
            await script(await ready)
            stop.set()

    asyncio.run(run())


@pytest.mark.usefixtures("shop")
def test_tokens_speak_for_the_node_of_their_pod_only(cluster: Cluster, tmp_path: Path) -> None:
    agent = cluster.token(SYSTEM, "meshnode-agent", "agent-x", AUDIENCE)
    own = cluster.token("shop", "there", "there", AUDIENCE)
    wrong = cluster.token(SYSTEM, "meshnode-agent", "agent-x")
    state = tmp_path / "state"

    async def script(ports: ControllerPorts) -> None:
        assert await ask(state, ports.ca, "here", agent) == 200
        assert await ask(state, ports.ca, "there", agent) == 403
        assert await ask(state, ports.ca, "there", own) == 200
        assert await ask(state, ports.ca, "here", own) == 403
        # Made for the API server, not for us.
        assert await ask(state, ports.ca, "here", wrong) == 401
        assert await ask(state, ports.ca, "here", "no token") == 401

    with_controller(cluster, tmp_path, script)
    assert refused(cluster, CONTROLLER) == set()


@pytest.mark.usefixtures("shop")
def test_the_controller_makes_and_removes_waypoints(cluster: Cluster, tmp_path: Path) -> None:
    def condition(what: str, name: str, kind: str) -> str:
        path = f"{{.status.conditions[?(@.type=='{kind}')].status}}"
        done = cluster.server.kubectl("-n", "shop", "get", what, name, f"-ojsonpath={path}")
        return done.stdout

    def is_there(what: str, name: str) -> bool:
        return cluster.server.kubectl("-n", "shop", "get", what, name).returncode == 0

    def play() -> None:
        cluster.apply(SERVICE, *POLICIES, gateway(max_replicas="3"), route())
        for what in ("deploy", "service", "serviceaccount", "pdb", "hpa"):
            eventually(lambda what=what: is_there(what, "wp"), f"{what} of the waypoint")  # type: ignore[misc]
        eventually(lambda: condition("gateway", "wp", "Accepted") == "True", "the Gateway's status")
        for policy in ("authorizationpolicy", "peerauthentication", "trafficpolicy"):
            kind = f"{policy}.meshnode.io"
            eventually(lambda kind=kind: condition(kind, "p", "Accepted") == "True", kind)  # type: ignore[misc]
        options = ("-n", "shop", "get", "httproute", "r", "-ojsonpath={.status.parents}")
        eventually(lambda: "Accepted" in cluster.kubectl(*options).stdout, "the route's status")
        subjects = ("get", "clusterrolebinding", "meshnode-waypoint", "-ojsonpath={.subjects}")
        eventually(lambda: '"shop"' in cluster.kubectl(*subjects).stdout, "the waypoint's right")
        # An upgrade applies the manifests again, and the waypoint can still read.
        cluster.kubectl("apply", "-f", "-", stdin=cluster.manifests())
        assert '"shop"' in cluster.kubectl(*subjects).stdout
        eventually(lambda: is_there("configmap", "meshnode-ca-root"), "the roots")
        eventually(
            lambda: cluster.server.kubectl("get", "validatingwebhookconfiguration", "meshnode")
            .returncode == 0, "the webhook",
        )  # fmt: skip
        cluster.kubectl("-n", "shop", "delete", "gateway", "wp")
        for what in ("deploy", "service", "serviceaccount", "pdb", "hpa"):
            eventually(lambda what=what: not is_there(what, "wp"), f"{what} goes")  # type: ignore[misc]
        eventually(lambda: "shop" not in cluster.kubectl(*subjects).stdout, "the right goes")

    async def script(_: ControllerPorts) -> None:
        await asyncio.to_thread(play)

    with_controller(cluster, tmp_path, script)
    assert refused(cluster, CONTROLLER) == set()


@pytest.mark.usefixtures("shop")
def test_an_agent_reads_the_mesh_and_marks_pods(cluster: Cluster) -> None:
    token = cluster.token(SYSTEM, "meshnode-agent", "agent-x")
    access = cluster.server.access(token)

    async def run() -> None:
        async with (
            asyncio.timeout(TIMEOUT_S),
            open_kubernetes(access) as source,
            aclosing(source.watch()) as changes,
            KubeApi(access) as api,
        ):
            found = await anext(changes)
            while not {"here", "there"} <= {one.name for one in found.objects}:
                found = await anext(changes)
            body = b'{"metadata":{"annotations":{"meshnode.io/enrolment":"active"}}}'
            path = "/api/v1/namespaces/shop/pods/here/status"
            await api.request("PATCH", path, body=body, content_type=MERGE_PATCH)

    asyncio.run(run())
    assert refused(cluster, AGENT) == set()
    watched = {one.permission for one in cluster.audited(AGENT) if one.verb == "watch"}
    missing = {
        (one.group, one.plural)
        for one in RESOURCES
        if (one.group, one.plural, "watch") not in watched and one.group != "security.istio.io"
    }
    assert missing == set()


@pytest.mark.usefixtures("shop")
def test_an_operators_token_opens_one_agent_and_nothing_else(cluster: Cluster) -> None:
    agent = cluster.server.access(cluster.token(SYSTEM, "meshnode-agent", "agent-x"))
    audience = f"--audience={operator_audience('n1')}"
    made = cluster.kubectl("-n", SYSTEM, "create", "token", OPERATOR, audience).stdout.strip()

    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), KubeApi(agent) as api:
            await gate_of(api, "n1").check(made)
            with pytest.raises(NotAllowed, match="another audience"):
                await gate_of(api, "n2").check(made)

    asyncio.run(run())
    user = f"system:serviceaccount:{SYSTEM}:{OPERATOR}"
    for verb, what in (("list", "pods"), ("create", "pods/portforward"), ("get", "configmaps")):
        done = cluster.server.kubectl("auth", "can-i", verb, what, "-n", SYSTEM, "--as", user)
        assert done.stdout.strip() == "no"


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("account", "refusal"),
    [
        ("meshnode-agent", ("get", "secrets", "meshnode-ca", SYSTEM)),
        ("meshnode-agent", ("list", "secrets", "", "shop")),
        ("meshnode-agent", ("patch", "pods", "here", "shop")),
        ("meshnode-agent", ("delete", "pods", "here", "shop")),
        ("meshnode-agent", ("create", "tokenreviews", "", "")),
        ("meshnode-agent", ("patch", "nodes", "n1", "")),
        ("meshnode-controller", ("get", "secrets", "other", SYSTEM)),
        ("meshnode-controller", ("list", "secrets", "", SYSTEM)),
        ("meshnode-controller", ("get", "secrets", "meshnode-ca", "shop")),
        ("meshnode-controller", ("create", "pods", "", "shop")),
        ("meshnode-controller", ("patch", "clusterrolebindings", "cluster-admin", "")),
        ("meshnode-controller", ("bind", "clusterroles", "cluster-admin", "")),
        ("meshnode-controller", ("patch", "httproutes", "r", "shop")),
    ],
)
def test_what_an_account_may_not(
    cluster: Cluster, account: str, refusal: tuple[str, str, str, str]
) -> None:
    verb, plural, name, namespace = refusal
    group = f".{GATEWAY_API}" if plural == "httproutes" else ""
    what = f"{plural}{group}/{name}" if name else f"{plural}{group}"
    scope = ("-n", namespace) if namespace else ()
    user = f"system:serviceaccount:{SYSTEM}:{account}"
    done = cluster.server.kubectl("auth", "can-i", verb, what, *scope, "--as", user)
    assert done.stdout.strip() == "no"
