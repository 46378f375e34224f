"""The demo's two nodes, five pods and their real applications."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from agent.admin.codec import from_json
from tests.lab import Agent, Lab, Node, Pod, Result
from tests.lab.agent import parse_access_log
from tests.lab.objects import (
    KubeObject,
    authorization_policy,
    kube_object,
    peer_authentication,
    service_object,
)

T = TypeVar("T")

LAB_NAME = "demo"
SHOP = "shop"
LEGACY = "legacy"
HTTP_PORT = 80
REDIS_PORT = 6379
IPERF_PORT = 5201
VIPS: Mapping[str, tuple[str, str]] = {
    "web": ("10.96.0.10", "fd00:96::10"),
    "orders": ("10.96.0.20", "fd00:96::20"),
    "cache": ("10.96.0.30", "fd00:96::30"),
}
BIG_FILE_BYTES = 1 << 30
"""Sparse; what a download takes that lasts until it is cut."""

NGINX_CONF = """
daemon off; master_process off; user root;
pid {directory}/nginx.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
  log_format who '$remote_addr $request_uri'; access_log {directory}/access.log who;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  server {{
    listen {port}; listen [::]:{port}; root {directory};
    location = /big {{ }}
    location = /flaky {{ return {flaky} "{name}\n"; }}
    location /account {{ return 404; }}
    location / {{ return 200 "hello from {name}\\n"; }}
  }}
}}
"""


@dataclass(slots=True, kw_only=True)
class Stage:
    """Everything the story needs at hand."""

    lab: Lab
    a: Node
    b: Node
    client: Pod
    web: Pod
    outsider: Pod
    orders: Pod
    cache: Pod

    @property
    def pods(self) -> tuple[Pod, ...]:
        return (self.client, self.web, self.outsider, self.orders, self.cache)

    def start_agent(self, node: Node) -> Agent:
        """Start a node's agent; its access log is read by the claims."""
        return node.agent("--access-log", "json")

    def ask(self, node: Node, kind: type[T], *arguments: str) -> T:
        """The JSON answer of a command of `meshnode`, as a value."""
        return from_json(node.meshnode(*arguments, "-o", "json").check().stdout.encode(), kind)

    def access_records(self) -> list[Mapping[str, object]]:
        """All lines of both nodes' access logs, those of earlier agents included."""
        logs = sorted((self.lab.directory / "logs").glob("*-agent.log"))
        texts = (log.read_text(errors="replace") for log in logs)
        return [record for text in texts for record in parse_access_log(text)]

    def seen_by(self, pod: Pod) -> str:
        """nginx's own log of a pod: client address and URI per request."""
        return (self.lab.directory / pod.name / "access.log").read_text()


def set_stage(lab: Lab) -> Stage:
    """Build nodes and pods, publish the objects, start the applications."""
    a, b = lab.node("a"), lab.node("b")
    lab.namespace(SHOP, enrolled=True)
    lab.namespace(LEGACY, enrolled=False)
    stage = Stage(
        lab=lab,
        a=a,
        b=b,
        client=a.pod("client", namespace=SHOP),
        web=a.pod("web", namespace=SHOP),
        outsider=a.pod("outsider", namespace=LEGACY),
        orders=b.pod("orders", namespace=SHOP),
        cache=b.pod("cache", namespace=SHOP),
    )
    services = (("web", HTTP_PORT), ("orders", HTTP_PORT), ("cache", REDIS_PORT))
    lab.apply("services", [_service(name, port) for name, port in services])
    probes: KubeObject = kube_object(
        "meshnode.io/v1alpha1",
        "MeshConfig",
        "default",
        spec={
            "pathNormalization": "MERGE_SLASHES",
            "probeSources": [address for node in (a, b) for address in _gateways(node)],
        },
    )
    lab.apply("mesh", probes)
    _start_applications(stage)
    return stage


def deny(name: str, *, src: str, dst: str) -> KubeObject:
    """A policy that denies one service account the way to one application."""
    principal = f"cluster.local/ns/{SHOP}/sa/{src}"
    return authorization_policy(
        SHOP,
        name,
        action="DENY",
        selector={"app": dst},
        rules=[{"from": [{"source": {"principals": [principal]}}]}],
    )


def strict() -> KubeObject:
    """Only authenticated peers in the shop."""
    return peer_authentication(SHOP, "strict", mode="STRICT")


def curl(pod: Pod, url: str, *options: str, timeout_s: float = 15.0) -> Result:
    """curl in a pod, quiet but for errors; it gives up after 5 s."""
    argv = ["curl", "-sS", "--max-time", "5", *options, url]
    return pod.run(argv, timeout_s=timeout_s)


def url4(pod: Pod, path: str = "/") -> str:
    return f"http://{pod.address4}:{HTTP_PORT}{path}"


def url6(pod: Pod, path: str = "/") -> str:
    return f"http://[{pod.address6}]:{HTTP_PORT}{path}"


def _service(name: str, port: int) -> KubeObject:
    return service_object(SHOP, name, cluster_ips=VIPS[name], port=port, selector={"app": name})


def _gateways(node: Node) -> tuple[str, str]:
    return node.addresses.gateway4, node.addresses.gateway6


def _start_applications(stage: Stage) -> None:
    for pod in (stage.web, stage.orders):
        start_nginx(stage.lab, pod)
        pod.start(["iperf3", "--server", "--port", str(IPERF_PORT)]).wait_listening(IPERF_PORT)
    directory = stage.lab.directory / "redis"
    directory.mkdir()
    redis = ["redis-server", "--port", str(REDIS_PORT), "--bind", "0.0.0.0", "::"]
    redis += ["--protected-mode", "no", "--save", "", "--dir", str(directory)]
    stage.cache.start(redis).wait_listening(REDIS_PORT)


def start_nginx(lab: Lab, pod: Pod, *, status_of_flaky: int = 200) -> None:
    """nginx in the pod; it answers `/flaky` with the status given."""
    directory = lab.directory / pod.name
    directory.mkdir()
    configuration = directory / "nginx.conf"
    text = NGINX_CONF.format(
        directory=directory, port=HTTP_PORT, name=pod.name, flaky=status_of_flaky
    )
    configuration.write_text(text)
    with (directory / "big").open("wb") as big:
        os.truncate(big.fileno(), BIG_FILE_BYTES)
    pod.start(["nginx", "-e", "stderr", "-c", str(configuration)]).wait_listening(HTTP_PORT)
