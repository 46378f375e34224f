"""The waypoint in its mesh: real agents, tunnels, policies and processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.lab import eventually
from tests.lab.objects import POLICY_GROUP, Json, authorization_policy, kube_object
from tests.netns.waypoint.mesh import APP_PORT, NAMESPACE, PORT, VIP, Shop, service, shop

GRPC = Path(__file__).with_name("grpc_app.py")
pytestmark = [pytest.mark.root, pytest.mark.slow]

BANNER = """
import socket, sys
server = socket.create_server(("", int(sys.argv[1])))
while True:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"220 ")
        while data := connection.recv(100):
            connection.sendall(data.upper())
        connection.sendall(b" BYE")
"""
TALK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as connection:
    print(connection.recv(4).decode(), end="")
    connection.sendall(b"hello")
    connection.shutdown(socket.SHUT_WR)
    while data := connection.recv(100):
        print(data.decode(), end="")
"""
WEBSOCKET = """
import asyncio, sys, aiohttp
async def main():
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(sys.argv[1]) as socket:
            for text in ("one", "two"):
                await socket.send_str(text)
                print(await socket.receive_str(timeout=5))
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def scene() -> Iterator[Shop]:
    with shop("waypoint") as running:
        yield running


def backend(name: str, weight: int = 1) -> Json:
    return {"name": name, "port": PORT, "weight": weight}


def encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def jwks(key: ec.EllipticCurvePrivateKey) -> str:
    numbers = key.public_key().public_numbers()
    x, y = (encode(value.to_bytes(32, "big")) for value in (numbers.x, numbers.y))
    return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "kid": "1", "x": x, "y": y}]})


def token(key: ec.EllipticCurvePrivateKey, subject: str) -> str:
    """An ES256 token of an hour (RFC 7518 §3.4)."""
    head = {"alg": "ES256", "kid": "1", "typ": "JWT"}
    body = {"iss": "issuer.test", "sub": subject, "exp": int(time.time()) + 3600}
    text = ".".join(encode(json.dumps(part).encode()) for part in (head, body))
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def test_a_request_passes_the_waypoint_with_the_callers_identity(scene: Shop) -> None:
    scene.delete("route-web")
    answer = scene.get("/headers")
    assert answer.startswith("200 ")
    assert f"x-forwarded-for: {scene.client.address4}" in answer
    assert "URI=spiffe://cluster.local/ns/shop/sa/client" in answer
    spoofed = scene.get("/headers", "x-forwarded-client-cert: URI=spiffe://evil/ns/a/sa/b")
    assert "evil" not in spoofed
    eventually(lambda: '"GET /headers HTTP/1.1" 200' in scene.waypoint.output, 30.0, "a log line")


def test_canary_weights_and_header_match(scene: Shop) -> None:
    scene.route(
        "web",
        {
            "matches": [{"headers": [{"name": "version", "value": "two"}]}],
            "backendRefs": [backend("web-v2")],
        },
        {"backendRefs": [backend("web-v1", 90), backend("web-v2", 10)]},
    )
    script = "for i in $(seq 200); do printf 'url=http://%s/\\n' " + VIP + "; done | curl -sS -K - "
    script += "-w '\\n' --max-time 60"
    answers = Counter(scene.client.run(["sh", "-c", script], timeout_s=30).check().stdout.split())
    assert sum(answers.values()) == 200
    assert 5 <= answers["v2"] <= 45
    assert {scene.get("/", "version: two") for _ in range(3)} == {"200 v2"}


def test_a_retry_hides_503_and_a_timeout_answers_504(scene: Shop) -> None:
    scene.route(
        "web",
        {
            "backendRefs": [backend("web-v1")],
            "retry": {"codes": [503], "attempts": 3, "backoff": "10ms"},
            "timeouts": {"request": "2s"},
        },
    )
    assert scene.get("/fail/2") == "200 armed"
    assert scene.get("/flaky") == "200 v1"
    assert scene.get("/fail/4") == "200 armed"
    assert scene.get("/flaky") == "503 busy"
    assert scene.get("/slow/5").startswith("504 ")
    scene.delete("route-web")


def test_path_is_denied_with_the_policy_named(scene: Shop) -> None:
    policy = dict(
        authorization_policy(
            NAMESPACE,
            "no-admin",
            action="DENY",
            rules=[{"to": [{"operation": {"paths": ["/admin*"]}}]}],
        )
    )
    spec = dict(policy["spec"])  # type: ignore[arg-type] # a mapping by construction
    spec["targetRefs"] = [{"group": "", "kind": "Service", "name": "web"}]
    scene.apply("policy-admin", {**policy, "spec": spec})
    assert scene.get("/admin/x") == "403 RBAC: access denied"
    assert scene.get("/a/../admin/x") == "403 RBAC: access denied"
    assert scene.get("/%61dmin") == "403 RBAC: access denied"
    assert scene.get("/other").startswith("200 ")
    wanted = "rbac_access_denied_matched_policy[AuthorizationPolicy shop/no-admin rule[0]]"
    eventually(lambda: wanted in scene.waypoint.output, 30.0, "the policy is named")
    scene.delete("policy-admin")


def test_going_round_the_waypoint_is_denied(scene: Shop) -> None:
    """A caller that dials the pod itself still lands at the waypoint; another tunnel is refused."""
    direct = scene.curl("-i", f"http://{scene.v1.address4}:{APP_PORT}/headers").check().stdout
    assert "By=spiffe://cluster.local/ns/shop/sa/gate" in direct
    agent = scene.lab.nodes["node-b"].running_agent
    assert agent is not None
    plain = scene.waypoint_pod.run(
        ["curl", "-sS", "--max-time", "3", f"http://{scene.v1.address4}:{APP_PORT}/"]
    )
    assert plain.status != 0  # not even the waypoint's pod, without its tunnel
    eventually(lambda: "WAYPOINT" in agent.log_tail(200).upper(), 30.0, "the denial is logged")


def test_a_websocket_passes(scene: Shop) -> None:
    argv = [sys.executable, "-c", WEBSOCKET, f"http://{VIP}/ws"]
    lines = scene.client.run(argv).check().stdout.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["one", "two"]
    assert lines[0].split(":")[0] == lines[1].split(":")[0]


def test_a_large_body_arrives_whole_both_ways(scene: Shop) -> None:
    piece = bytes(range(256)) * 4096
    wanted = hashlib.sha256()
    for _ in range(100):
        wanted.update(piece)
    command = f"curl -sS --max-time 90 http://{VIP}/blob/100 | sha256sum"
    down = scene.client.run(["sh", "-c", command], timeout_s=70).check()
    assert down.stdout.split()[0] == wanted.hexdigest()
    make = "import sys\np=bytes(range(256))*4096\nfor _ in range(100): sys.stdout.buffer.write(p)"
    command = (
        f"{sys.executable} -c '{make}' | curl -sS --max-time 60 -T - -X POST http://{VIP}/digest"
    )
    up = scene.client.run(["sh", "-c", command], timeout_s=70).check()
    assert up.stdout == wanted.hexdigest()


def test_grpc_unary_and_streaming(scene: Shop) -> None:
    vip, port = "10.96.7.9", 9090
    scene.apply("service-grpc", service("rpc", vip, {"version": "v1"}, "grpc", target_port=port))
    scene.v1.start([sys.executable, str(GRPC), "serve", str(port)]).wait_listening(port)
    argv = [sys.executable, str(GRPC), "call", f"{vip}:{PORT}"]
    said = scene.client.run(argv, timeout_s=40).check().stdout.splitlines()
    assert said == ["echo 1000000 1000000", "chat True", "missing UNIMPLEMENTED"]
    eventually(lambda: "/t.T/Echo HTTP/2" in scene.waypoint.output, 30.0, "a log line")


def test_a_server_that_speaks_first_is_relayed_as_tcp(scene: Shop) -> None:
    vip, port = "10.96.7.8", 7070
    scene.apply("service-tcp", service("tcp", vip, {"version": "v1"}, target_port=port))
    scene.v1.start([sys.executable, "-c", BANNER, str(port)]).wait_listening(port)
    said = scene.client.run([sys.executable, "-c", TALK, vip, str(PORT)]).check().stdout
    assert said.split() == ["220", "HELLO", "BYE"]


def test_a_token_is_asked_for_and_judged(scene: Shop) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    target: Json = [{"group": "", "kind": "Service", "name": "web-v2"}]
    rule: Json = {"issuer": "issuer.test", "jwks": jwks(key)}
    scene.apply(
        "jwt",
        [
            kube_object(
                POLICY_GROUP,
                "RequestAuthentication",
                "tokens",
                namespace=NAMESPACE,
                spec={"targetRefs": target, "jwtRules": [rule]},
            ),
            kube_object(
                POLICY_GROUP,
                "AuthorizationPolicy",
                "only-ann",
                namespace=NAMESPACE,
                spec={
                    "targetRefs": target,
                    "action": "ALLOW",
                    "rules": [{"from": [{"source": {"requestPrincipals": ["issuer.test/ann"]}}]}],
                },
            ),
        ],
    )

    def status(*headers: str) -> str:
        return scene.get("/", *headers, host="10.96.7.3").split()[0]

    assert status() == "403"
    assert status(f"authorization: Bearer {token(key, 'ann')}") == "200"
    assert status(f"authorization: Bearer {token(key, 'bob')}") == "403"
    other = ec.generate_private_key(ec.SECP256R1())
    assert status(f"authorization: Bearer {token(other, 'ann')}") == "401"
    scene.delete("jwt")


def test_its_workers_hold_no_privilege(scene: Shop) -> None:
    pid = scene.waypoint.pid
    workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(workers) == 1
    status = Path(f"/proc/{workers[0]}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in fields["Uid"].split()
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"


def test_a_worker_that_dies_is_replaced(scene: Shop) -> None:
    pid = scene.waypoint.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    (before,) = children.read_text().split()
    os.kill(int(before), signal.SIGKILL)
    eventually(lambda: children.read_text().split() not in ([], [before]), 30.0, "a new worker")
    eventually(lambda: scene.curl(f"http://{VIP}/").status == 0, 30.0, "the service is back")


def test_metrics_and_endpoints_are_shown(scene: Shop) -> None:
    def admin(path: str) -> str:
        argv = ["curl", "-sS", f"http://127.0.0.1:15021{path}"]
        return scene.waypoint_pod.run(argv).check().stdout

    scene.get("/")
    eventually(lambda: "istio_requests_total{" in admin("/metrics"), 30.0, "requests are counted")
    line = next(x for x in admin("/metrics").splitlines() if x.startswith("istio_requests_total{"))
    for part in (
        'reporter="waypoint"',
        'source_principal="spiffe://cluster.local/ns/shop/sa/client"',
        'destination_service="web.shop.svc.cluster.local"',
        'connection_security_policy="mutual_tls"',
    ):
        assert part in line
    eventually(lambda: '"workload":"pod/shop/web-v1"' in admin("/clusters"), 30.0, "endpoints")
    assert "shop/web" in json.loads(admin("/config_dump"))["services"]


@pytest.mark.parametrize(
    ("takes", "by_service", "by_address"),
    [
        ("service", True, False),
        ("workload", False, True),
        ("all", True, True),
        ("none", False, False),
    ],
)
def test_a_waypoint_takes_the_traffic_it_is_for(
    scene: Shop, takes: str, by_service: bool, by_address: bool
) -> None:
    scene.delete("route-web")
    passed = "x-request-id:"  # Given by waypoints; curl sends none.

    def way(host: str) -> bool | None:
        answer = scene.get("/headers", host=host)
        return passed in answer if answer.startswith("200") else None

    # A pod that is behind the waypoint by itself is so for those who dial its service, too.
    before, service = scene.v2.labels, "10.96.7.3"
    scene.v2.labels = {**before, "meshnode.io/use-waypoint": "none"}
    scene.lab.apply(f"pod-{NAMESPACE}-{scene.v2.name}", scene.v2.objects())
    gateway_for(scene, takes)
    try:
        # The agents may have it a moment later; in between connections are refused, never plain.
        eventually(lambda: way(service) is by_service, 30.0, f"{takes}: said to the service")
        address = f"{scene.v1.address4}:{APP_PORT}"
        eventually(lambda: way(address) is by_address, 30.0, f"{takes}: to the pod")
    finally:
        scene.lab.delete("gateway")
        scene.v2.labels = before
        scene.lab.apply(f"pod-{NAMESPACE}-{scene.v2.name}", scene.v2.objects())
        eventually(lambda: way(service) is True, 30.0, "without a Gateway everything passes")


def test_without_its_waypoint_a_service_is_closed_and_opens_again(scene: Shop) -> None:
    """Last: it ends the waypoint."""
    assert scene.get("/").startswith("200 ")
    assert scene.waypoint.stop() == 0
    assert scene.curl(f"http://{VIP}/").status != 0
    assert scene.curl(f"http://{scene.v1.address4}:{APP_PORT}/").status != 0


def gateway_for(scene: Shop, takes: str) -> None:
    """Apply the Gateway; what says the same as none changes nothing that could be waited for."""
    scene.lab.apply(
        "gateway",
        kube_object(
            "gateway.networking.k8s.io/v1",
            "Gateway",
            "gate",
            namespace=NAMESPACE,
            labels={"meshnode.io/waypoint-for": takes},
            spec={
                "gatewayClassName": "meshnode-waypoint",
                "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
            },
        ),
    )
