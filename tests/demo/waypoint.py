"""Chapter of the waypoint: requests instead of connections."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.demo.narrator import Narrator
from tests.demo.stage import HTTP_PORT, SHOP, Stage, curl, start_nginx, url4
from tests.lab import Pod, Process, eventually
from tests.lab.objects import POLICY_GROUP, Json, KubeObject, kube_object, service_object
from tests.lab.waypoint import start_waypoint, wait_ready, waypoint_labels

GATE = "gate"
USE_WAYPOINT = {"meshnode.io/use-waypoint": GATE}
VIPS = {
    "catalog": ("10.96.0.40", "fd00:96::40"),
    "catalog-v1": ("10.96.0.41", "fd00:96::41"),
    "catalog-v2": ("10.96.0.42", "fd00:96::42"),
}
URL = f"http://{VIPS['catalog'][0]}:{HTTP_PORT}"
TO_CATALOG: list[Json] = [{"group": "", "kind": "Service", "name": "catalog"}]
TO_GATE: list[Json] = [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATE}]
REQUESTS = 200
CANARY_PERCENT = 10
CANARY_BETWEEN = (5, 45)
"""Of 200 with 10 %: 20 expected; outside of this range less than once in 10,000 runs."""
LIMIT = 5
ISSUER = "issuer.example"
SETTLED_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Two versions of an application and the waypoint before them."""

    v1: Pod
    v2: Pod
    waypoint: Process


def waypoint(tell: Narrator, stage: Stage) -> None:
    """Canary, retries, limits, tokens and paths, by standard objects."""
    tell.chapter("9. A waypoint rules the requests to one service; applications are unchanged")
    with _catalog(stage) as catalog:
        _canary(tell, stage)
        _retry(tell, stage, catalog)
        _limit(tell, stage)
        _tokens(tell, stage)
        _path(tell, stage, catalog)


@contextmanager
def _catalog(stage: Stage) -> Iterator[Catalog]:
    v1, v2 = (_version(stage, name) for name in ("v1", "v2"))
    gate = stage.b.pod(GATE, namespace=SHOP, labels=waypoint_labels(GATE))
    stage.lab.apply("catalog", [_service(name) for name in VIPS])
    start_nginx(stage.lab, v1, status_of_flaky=503)
    start_nginx(stage.lab, v2, status_of_flaky=200)
    options = ("--access-log", "json")
    process = start_waypoint(gate, f"{SHOP}/{GATE}", *options, ca_node=stage.a)
    try:
        wait_ready(gate)
        eventually(lambda: curl(stage.client, f"{URL}/").status == 0, SETTLED_S, "catalog answers")
        yield Catalog(v1=v1, v2=v2, waypoint=process)
    finally:
        process.stop()


def _version(stage: Stage, version: str) -> Pod:
    labels = {"app": "catalog", "version": version, **USE_WAYPOINT}
    return stage.b.pod(f"catalog-{version}", namespace=SHOP, labels=labels)


def _service(name: str) -> KubeObject:
    _, _, version = name.partition("-")
    selector = {"version": version} if version else {"app": "catalog"}
    made = service_object(SHOP, name, cluster_ips=VIPS[name], port=HTTP_PORT, selector=selector)
    return {**made, "metadata": {"name": name, "namespace": SHOP, "labels": USE_WAYPOINT}}


def _route(*rules: Json) -> KubeObject:
    spec: Json = {"parentRefs": TO_CATALOG, "rules": list(rules)}
    group = "gateway.networking.k8s.io/v1"
    return kube_object(group, "HTTPRoute", "catalog", namespace=SHOP, spec=spec)


def _policy(kind: str, name: str, **spec: Json) -> KubeObject:
    fields: Json = {"targetRefs": TO_CATALOG, **spec}
    return kube_object(POLICY_GROUP, kind, name, namespace=SHOP, spec=fields)


def _backend(name: str, weight: int = 1) -> Json:
    return {"name": name, "port": HTTP_PORT, "weight": weight}


def _status(stage: Stage, path: str, *options: str) -> int:
    """Status of a GET; 0 if the connection failed."""
    argv = ("-o", "/dev/null", "-w", "%{http_code}", "--path-as-is", *options)
    return int(curl(stage.client, URL + path, *argv).stdout or 0)


def _many(stage: Stage, path: str, count: int, form: str = "") -> Counter[str]:
    """Lines of the answers to many GETs over one connection; `form` is curl's `-w`."""
    urls = "".join(
        f'url = "{URL}{path}"\n' + ("output = /dev/null\n" if form else "") for _ in range(count)
    )
    argv = ["curl", "-sS", "--max-time", "20", "-K", "-", *(("-w", form) if form else ())]
    return Counter(stage.client.run(argv, stdin=urls, timeout_s=30).check().stdout.splitlines())


def _canary(tell: Narrator, stage: Stage) -> None:
    with tell.claim(f"HTTPRoute: {CANARY_PERCENT} % of the requests go to v2") as claim:
        picked: Json = {"headers": [{"name": "x-version", "value": "v2"}]}
        shares = [_backend("catalog-v1", 100 - CANARY_PERCENT)]
        shares += [_backend("catalog-v2", CANARY_PERCENT)]
        to_v2: Json = {"matches": [picked], "backendRefs": [_backend("catalog-v2")]}
        stage.lab.apply("route", _route(to_v2, {"backendRefs": shares}))
        _eventually_only_v2(stage)
        answers = _many(stage, "/", REQUESTS)
        v2 = answers["hello from catalog-v2"]
        assert answers["hello from catalog-v1"] + v2 == REQUESTS, f"{answers}"
        assert CANARY_BETWEEN[0] <= v2 <= CANARY_BETWEEN[1], f"{answers}"
        claim.detail = f"{v2} of {REQUESTS}"
    with tell.claim("whoever sends `x-version: v2` gets v2, always"):
        _eventually_only_v2(stage)


def _eventually_only_v2(stage: Stage) -> None:
    def only() -> bool:
        answers = {curl(stage.client, f"{URL}/", "-H", "x-version: v2").stdout for _ in range(5)}
        assert answers == {"hello from catalog-v2\n"}, f"{answers}"
        return True

    eventually(only, SETTLED_S, "the route is in force")


def _retry(tell: Narrator, stage: Stage, catalog: Catalog) -> None:
    with tell.claim("v1 answers /flaky with 503; a retry hides it from the client") as claim:
        again: Json = {"codes": [503], "attempts": 3, "backoff": "5ms"}
        stage.lab.apply("route", _route({"retry": again, "backendRefs": [_backend("catalog")]}))

        def hidden() -> Counter[str]:
            answers = _many(stage, "/flaky", 20, "%{http_code}\n")
            assert set(answers) == {"200"}, f"{dict(answers)}"
            return answers

        answers = eventually(hidden, SETTLED_S, "all requests are served")
        faults = stage.seen_by(catalog.v1).count("/flaky")
        assert faults, "v1 was never asked"
        claim.detail = f"{answers['200']} of 20 served; v1 refused {faults} times so far"
    stage.lab.delete("route")


def _limit(tell: Narrator, stage: Stage) -> None:
    with tell.claim(f"TrafficPolicy: {LIMIT} requests a minute for each identity") as claim:
        rule: Json = {"requests": LIMIT, "per": "1m", "by": "Identity"}
        stage.lab.apply("limit", _policy("TrafficPolicy", "limit", rateLimits=[rule]))
        eventually(lambda: _status(stage, "/") == 429, SETTLED_S, "the limit is reached")
        answers = _many(stage, "/", 10, "%{http_code}\n")
        assert answers == {"429": 10}, f"{dict(answers)}"
        headers = curl(stage.client, f"{URL}/", "-D", "-", "-o", "/dev/null").stdout.lower()
        assert "retry-after:" in headers, headers
        claim.detail = "then 429 with Retry-After"
    stage.lab.delete("limit")
    eventually(lambda: _status(stage, "/") == 200, SETTLED_S, "the limit is gone")


def _tokens(tell: Narrator, stage: Stage) -> None:
    key, forger = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    where: dict[str, Json] = {"operation": {"paths": ["/account", "/account/*"]}}
    nobody: Json = {"source": {"notRequestPrincipals": ["*"]}}
    rules: list[Json] = [{"from": [nobody], "to": [where]}]
    stage.lab.apply(
        "tokens",
        [
            _policy(
                "RequestAuthentication", "tokens", jwtRules=[{"issuer": ISSUER, "jwks": _jwks(key)}]
            ),
            _policy("AuthorizationPolicy", "account-needs-token", action="DENY", rules=rules),
        ],
    )
    with tell.claim("/account wants a token: none is 403, a forged one 401, a good one passes"):
        eventually(lambda: _status(stage, "/account") == 403, SETTLED_S, "403 without a token")
        for signer, wanted in ((forger, 401), (key, 404)):
            bearer = f"authorization: Bearer {_token(signer)}"
            found = _status(stage, "/account", "-H", bearer)
            assert found == wanted, f"{found} instead of {wanted}"
        assert _status(stage, "/") == 200, "other paths need no token"
    stage.lab.delete("tokens")


def _path(tell: Narrator, stage: Stage, catalog: Catalog) -> None:
    rules: list[Json] = [{"to": [{"operation": {"paths": ["/admin", "/admin/*"]}}]}]
    spec: Json = {"targetRefs": TO_GATE, "action": "DENY", "rules": rules}
    kind = "AuthorizationPolicy"
    denied = kube_object(POLICY_GROUP, kind, "no-admin", namespace=SHOP, spec=spec)
    stage.lab.apply("admin", denied)
    with tell.claim("AuthorizationPolicy: /admin is denied, however the path is written"):
        eventually(lambda: _status(stage, "/admin") == 403, SETTLED_S, "403")
        for path in ("/admin/users", "/x/../admin/users", "/%61dmin/users", "//admin/users"):
            found = _status(stage, path)
            assert found == 403, f"{path}: {found}"
    with tell.claim("the waypoint's log names the policy") as claim:
        claim.detail = eventually(lambda: _denied(catalog.waypoint), SETTLED_S, "a log line")
    with tell.claim("the pod's own address is no way around: it leads through the waypoint too"):
        argv = ("-o", "/dev/null", "-w", "%{http_code}")
        answer = curl(stage.client, url4(catalog.v1, "/admin/users"), *argv).stdout
        assert answer == "403", f"answered {answer}"
    stage.lab.delete("admin")


def _denied(process: Process) -> str:
    """Details of the newest denied request."""
    for line in reversed(process.output.splitlines()):
        if line.startswith("{") and "no-admin" in line:
            return str(json.loads(line)["response_code_details"])
    return ""


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _jwks(key: ec.EllipticCurvePrivateKey) -> str:
    numbers = key.public_key().public_numbers()
    x, y = (_encode(value.to_bytes(32, "big")) for value in (numbers.x, numbers.y))
    return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "kid": "1", "x": x, "y": y}]})


def _token(key: ec.EllipticCurvePrivateKey) -> str:
    """An ES256 token of an hour (RFC 7518 §3.4)."""
    head = {"alg": "ES256", "kid": "1", "typ": "JWT"}
    body = {"iss": ISSUER, "sub": "ann", "exp": int(time.time()) + 3600}
    text = ".".join(_encode(json.dumps(part).encode()) for part in (head, body))
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{_encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
