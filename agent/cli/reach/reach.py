"""Agents and waypoints of a whole cluster, asked from anywhere with a kubeconfig.

Pods are found by their labels; each is asked over a port forwarded by the API server to its
loopback (`mesh.sources.kubernetes.port_forward`), so the caller's own rights in the cluster decide,
and nothing of ours is open to the network.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import quote

import click
import msgspec

from agent.admin.client import NO_ANSWER, AdminClient, AgentForbidden, AgentNotRunning, AgentRefused
from agent.cli.reach.observers import Observer
from agent.cli.reach.reach_options import ClusterChoice
from mesh.errors import ConfigError, MeshnodeError
from mesh.identity.directory import WAYPOINT_CLASS, WAYPOINT_CLASS_LABEL
from mesh.model.workload import WAYPOINT_LABEL
from mesh.run_files import OPERATOR, VIEW_PORT, operator_audience
from mesh.sources.kubernetes.config import load_configuration
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.port_forward import PodPort, forward
from mesh.sources.kubernetes.transport import KubeApi

T = TypeVar("T")
AGENT_LABEL = "app.kubernetes.io/name=meshnode-agent"
LIST_TIMEOUT_S = 30.0
SAID_TIMEOUT_S = 2.0
TOKEN_LIFE_S = 600
"""The shortest that the API server grants."""
VIEWER = "meshnode-viewer"
PODS = "/api/v1/pods"
PROMETHEUS_LABELS = (
    "app.kubernetes.io/name=prometheus",
    "operated-prometheus=true",
    "app=prometheus",
)
"""Of Helm's charts, of the operator, and of many hand-written manifests."""
PROMETHEUS_PORTS = (9090, 80)


class _Metadata(msgspec.Struct):
    name: str
    namespace: str = ""
    labels: Mapping[str, str] = {}


class _PodSpec(msgspec.Struct):
    nodeName: str = ""


class _PodStatus(msgspec.Struct):
    phase: str = "Unknown"


class _Pod(msgspec.Struct):
    metadata: _Metadata
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


class _PodList(msgspec.Struct):
    items: list[_Pod]


class _Port(msgspec.Struct):
    port: int


class _ServiceSpec(msgspec.Struct):
    ports: list[_Port] = []


class _Service(msgspec.Struct):
    metadata: _Metadata
    spec: _ServiceSpec = msgspec.field(default_factory=_ServiceSpec)


class _ServiceList(msgspec.Struct):
    items: list[_Service]


class _TokenStatus(msgspec.Struct):
    token: str


class _TokenRequest(msgspec.Struct):
    status: _TokenStatus


class Reach:
    """A connection to an API server, in a thread of its own. A context manager."""

    def __init__(self, choice: ClusterChoice) -> None:
        self._choice = choice
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._api: KubeApi | None = None

    def __enter__(self) -> Reach:
        self._thread.start()
        try:
            self._api = self._wait(self._connect(), LIST_TIMEOUT_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything that is under way; may be repeated."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            self._wait(self._end(), LIST_TIMEOUT_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def observers(self, node: str | None, namespace: str = "") -> list[Observer]:
        """Who can be asked: all, or those of a node; `namespace` narrows down the waypoints."""
        agents = self._wait(self._pods(self._choice.namespace, AGENT_LABEL), LIST_TIMEOUT_S)
        found = [
            self._observer(f"node/{pod.spec.nodeName or pod.metadata.name}", pod) for pod in agents
        ]
        waypoints = self._waypoints(namespace)
        found += [self._observer(origin, pod) for origin, pod in _origins(waypoints)]
        if node is not None:
            pods = {pod.metadata.name for pod in (*agents, *waypoints) if pod.spec.nodeName == node}
            found = [one for one in found if one.origin == f"node/{node}" or one.pod in pods]
        if not found:
            where = f"on node {node} " if node else ""
            text = f"no agent is running {where}in namespace {self._choice.namespace}"
            raise AgentNotRunning(f"{text} of the cluster that {self._choice.kubeconfig} names")
        return found

    def open(self, to: PodPort, timeout_s: float) -> socket.socket:
        """One end of a connection to a pod's port; bytes may be written at once."""
        near, far = socket.socketpair()
        far.setblocking(False)
        ours = _Forwarded(fileno=near.detach())
        ours.settimeout(timeout_s)
        ours.carried = asyncio.run_coroutine_threadsafe(self._forward(to, far), self._loop)
        return ours

    def operator_token(self, node: str) -> str:
        """A token that lets its bearer change the log level of one node's agent, for ten minutes.

        Raises `AgentForbidden` where the caller may not make one.
        """
        namespace = self._choice.namespace
        account = f"/api/v1/namespaces/{quote(namespace, safe='')}/serviceaccounts/{OPERATOR}"
        wanted = {"audiences": [operator_audience(node)], "expirationSeconds": TOKEN_LIFE_S}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": wanted}
        try:
            made = self._wait(self._post(f"{account}/token", body), LIST_TIMEOUT_S)
        except KubeError as error:
            if error.status == HTTPStatus.FORBIDDEN:
                hint = f"bind Role {OPERATOR} to yourself in namespace {namespace}"
                raise AgentForbidden(f"you may not change agents from afar: {hint}") from error
            if error.status == HTTPStatus.NOT_FOUND:
                text = f"there is no service account {namespace}/{OPERATOR}"
                raise ConfigError(f"{text}: apply the manifests of `meshnode install`") from error
            raise
        return msgspec.json.decode(made, type=_TokenRequest).status.token

    def find_prometheus(self) -> str | None:
        """`NAMESPACE/NAME:PORT` of the cluster's Prometheus; None if none is found or allowed."""
        for selector in PROMETHEUS_LABELS:
            try:
                found = self._wait(self._services(selector), LIST_TIMEOUT_S)
            except KubeError as error:
                if error.status == HTTPStatus.FORBIDDEN:
                    return None
                raise
            for service in found:
                for port in service.spec.ports:
                    if port.port in PROMETHEUS_PORTS:
                        where = service.metadata
                        return f"{where.namespace}/{where.name}:{port.port}"
        return None

    def proxied(self, service: str, path: str, query: Mapping[str, str]) -> bytes:
        """Ask an HTTP service by way of the API server. Raises `KubeError`."""
        namespace, _, name = service.partition("/")
        proxy = f"/api/v1/namespaces/{namespace}/services/{name}/proxy{path}"
        return self._wait(self._get(proxy, query), LIST_TIMEOUT_S)

    async def _services(self, selector: str) -> list[_Service]:
        body = await self._get("/api/v1/services", {"labelSelector": selector})
        return msgspec.json.decode(body, type=_ServiceList).items

    async def _post(self, path: str, body: object) -> bytes:
        assert self._api is not None
        content = msgspec.json.encode(body)
        return await self._api.request("POST", path, body=content, timeout_s=LIST_TIMEOUT_S)

    async def _get(self, path: str, query: Mapping[str, str]) -> bytes:
        assert self._api is not None
        return await self._api.request("GET", path, query=query, timeout_s=LIST_TIMEOUT_S)

    async def _forward(self, to: PodPort, sock: socket.socket) -> None:
        assert self._api is not None
        await forward(self._api, to, sock)

    def _waypoints(self, namespace: str) -> list[_Pod]:
        """Whoever may not list pods everywhere may name one namespace."""
        selector = f"{WAYPOINT_CLASS_LABEL}={WAYPOINT_CLASS}"
        try:
            return self._wait(self._pods(namespace, selector), LIST_TIMEOUT_S)
        except KubeError as error:
            if error.status != HTTPStatus.FORBIDDEN:
                raise
            where = f"in namespace {namespace}" if namespace else "in all namespaces"
            text = f"waypoints are missing: you may not list pods {where}"
            click.echo(f"meshnode: {text}{'' if namespace else '; choose one with -n'}", err=True)
            return []

    def _observer(self, origin: str, pod: _Pod) -> Observer:
        to = PodPort(pod.metadata.namespace, pod.metadata.name, VIEW_PORT)
        return Observer(
            origin, AdminClient(origin, PodWay(self, to, pod.status.phase)), pod.metadata.name
        )

    async def _connect(self) -> KubeApi:
        configuration = await load_configuration(self._choice.kubeconfig, self._choice.context)
        return await KubeApi(configuration).__aenter__()

    async def _pods(self, namespace: str, selector: str) -> list[_Pod]:
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods" if namespace else PODS
        body = await self._get(path, {"labelSelector": selector})
        listed = msgspec.json.decode(body, type=_PodList).items
        return sorted(listed, key=lambda pod: (pod.metadata.namespace, pod.metadata.name))

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._api is not None:
            await self._api.__aexit__(None, None, None)

    def _wait(self, work: Coroutine[object, object, T], timeout_s: float) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)


class _Forwarded(socket.socket):
    """Our end of a forwarded connection; `carried` ends with the reason why it ended."""

    carried: Future[None]


@dataclass(frozen=True, slots=True)
class PodWay:
    """The way to a pod's loopback. `phase`: of the pod's life, when it was listed."""

    reach: Reach
    to: PodPort
    phase: str

    def open(self, timeout_s: float) -> socket.socket:
        """Ask for the port to be forwarded."""
        if self.phase != "Running":
            raise AgentNotRunning(f"pod {self.to.namespace}/{self.to.pod} is {self.phase}")
        return self.reach.open(self.to, timeout_s)

    def explain(self, sock: socket.socket | None, error: Exception) -> MeshnodeError:
        """What the API server or the kubelet said; without a word of theirs, the error."""
        pod = f"pod {self.to.namespace}/{self.to.pod}"
        said = _said(sock.carried) if isinstance(sock, _Forwarded) else None
        if said is None:
            return AgentRefused(NO_ANSWER, f"{pod} does not answer: {error}")
        if said.status == HTTPStatus.FORBIDDEN:
            hint = f"bind ClusterRole {VIEWER} to yourself in namespace {self.to.namespace}"
            return AgentForbidden(f"you may not forward ports of {pod}: {hint}")
        if said.status == HTTPStatus.NOT_FOUND:
            return AgentNotRunning(f"{pod} is gone")
        return AgentRefused(NO_ANSWER, f"{pod} cannot be reached: {said}")


def _said(carried: Future[None]) -> KubeError | None:
    try:
        carried.result(SAID_TIMEOUT_S)
    except KubeError as error:
        return error
    except (TimeoutError, CancelledError):
        return None
    return None


def _origins(waypoints: Sequence[_Pod]) -> list[tuple[str, _Pod]]:
    """A name for each; a waypoint of several pods has the pod's name behind its own."""
    names = [
        f"waypoint/{pod.metadata.namespace}/{pod.metadata.labels.get(WAYPOINT_LABEL, '')}"
        for pod in waypoints
    ]
    count = Counter(names)
    return [
        (name if count[name] == 1 else f"{name}/{pod.metadata.name}", pod)
        for name, pod in zip(names, waypoints, strict=True)
    ]
