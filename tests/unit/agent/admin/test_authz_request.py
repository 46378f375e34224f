"""`authz check` of whole requests: the waypoint's rules, its tokens, and the onward connection."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.admin.authz import check_authz
from agent.admin.codec import from_json, to_json
from agent.admin.question import AuthzAnswer, AuthzQuestion, RequestQuestion
from agent.cli.main import cli
from mesh.errors import ConfigError
from mesh.model.snapshot import MeshSnapshot
from mesh.model.verdict import Decision
from mesh.sources.file import FileSource
from mesh.state.reducer import reduce
from tests.unit.mesh.jwt.issuer import ISSUER, NOW, jwks, payload, signer, token

KEY = signer("ES256", "one")

POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}
spec: {{nodeName: n1, serviceAccountName: {name}}}
status: {{podIP: 10.0.0.{number}}}
---
"""
MESH = (
    "apiVersion: v1\nkind: Namespace\n"
    "metadata: {name: shop, labels: {meshnode.io/dataplane: enabled}}\n---\n"
    + POD.format(name="front", labels="app: front", number=1)
    + POD.format(name="api-0", labels="app: api", number=2)
    + POD.format(name="free", labels="app: free", number=3)
    + POD.format(name="wp", labels="gateway.networking.k8s.io/gateway-name: wp", number=9)
    + """\
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop, labels: {meshnode.io/use-waypoint: wp}}
spec:
  clusterIP: 10.96.0.1
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-1, namespace: shop, labels: {kubernetes.io/service-name: api}}
ports: [{port: 8080}]
endpoints: [{addresses: [10.0.0.2], targetRef: {kind: Pod, name: api-0}}]
---
apiVersion: meshnode.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: read, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: api}]
  rules:
  - to: [{operation: {methods: [GET], paths: ["/public/{*}"]}}]
  - from: [{source: {requestPrincipals: ["*"]}}]
    when: [{key: "request.auth.claims[roles]", values: [admin]}]
---
apiVersion: meshnode.io/v1alpha1
kind: RequestAuthentication
metadata: {name: jwt, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: api}]
  jwtRules:
  - issuer: ISSUER
    JWKS
---
"""
).replace("ISSUER", ISSUER)
INLINE = MESH.replace("JWKS", f"jwks: '{jwks(KEY).decode()}'")


def read(tmp_path: Path, text: str = INLINE) -> MeshSnapshot:
    (tmp_path / "mesh.yaml").write_text(text)
    return reduce(FileSource(tmp_path).load_once(), None)


def ask(
    snapshot: MeshSnapshot,
    method: str = "GET",
    path: str = "/public/a",
    dst: str = "shop/api",
    port: int = 80,
    token: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> AuthzAnswer:
    request = RequestQuestion(method=method, path=path, token=token, headers=headers, at=NOW)
    question = AuthzQuestion(src="shop/front", dst=dst, port=port, request=request)
    assert from_json(to_json(question).encode(), AuthzQuestion) == question
    answer = check_authz(snapshot, question)
    assert from_json(to_json(answer).encode(), AuthzAnswer) == answer
    return answer


def details(answer: AuthzAnswer) -> dict[str, tuple[str, str]]:
    return {step.what: (step.result, step.detail) for step in answer.steps}


def test_a_request_is_judged_at_the_waypoint(tmp_path: Path) -> None:
    mesh = read(tmp_path)
    answer = ask(mesh)
    assert (answer.allowed, answer.waypoint) == (True, "shop/wp")
    assert str(answer.decided_by) == "AuthorizationPolicy shop/read rule[0]"
    found = details(answer)
    assert found["AuthorizationPolicy shop/read rule[0]"] == (
        "matched",
        "to[0].operation.methods, to[0].operation.paths",
    )
    assert (
        "requestPrincipals (the request has none)"
        in found["AuthorizationPolicy shop/read rule[1]"][1]
    )
    [decided] = [step for step in answer.steps if step.decided]
    assert decided.what == "AuthorizationPolicy shop/read rule[0]"


@pytest.mark.parametrize(
    ("method", "path", "why"),
    [
        ("POST", "/public/a", "methods (the request has 'POST')"),
        ("GET", "/public/a/b", "paths (the request has '/public/a/b')"),
        ("GET", "/public/../secret", "paths (the request has '/secret')"),
    ],
)
def test_a_denial_says_which_field(tmp_path: Path, method: str, path: str, why: str) -> None:
    answer = ask(read(tmp_path), method, path)
    assert (answer.allowed, answer.decision) == (False, Decision.NO_ALLOW_MATCH)
    assert why in details(answer)["AuthorizationPolicy shop/read rule[0]"][1]


def test_tokens_count(tmp_path: Path) -> None:
    mesh = read(tmp_path)
    admin = token(KEY, payload(roles=["admin"]))
    answer = ask(mesh, "POST", "/x", token=admin)
    assert answer.allowed
    assert details(answer)["RequestAuthentication"][0] == "verified"
    answer = ask(mesh, token=token(KEY, payload(exp=1)))
    assert (answer.allowed, answer.decision) == (False, Decision.INVALID_TOKEN)
    assert details(answer)["RequestAuthentication"] == ("refused", "the token has expired")
    forged = token(signer("ES256", "two"), payload(roles=["admin"]))
    assert ask(mesh, token=forged).decision is Decision.INVALID_TOKEN


def test_without_keys_at_hand_the_claims_count_as_they_stand(tmp_path: Path) -> None:
    mesh = read(tmp_path, MESH.replace("JWKS", "jwksUri: https://id.example/keys"))
    answer = ask(mesh, "POST", "/x", token=token(KEY, payload(roles=["admin"])))
    assert answer.allowed
    assert details(answer)["RequestAuthentication"][0] == "signature not checked"
    assert not ask(mesh, token=token(KEY, payload(exp=1))).allowed


def test_where_there_is_no_waypoint_the_request_is_not_looked_at(tmp_path: Path) -> None:
    answer = ask(read(tmp_path), dst="shop/free", port=8080)
    assert (answer.allowed, answer.waypoint) == (True, "")
    assert details(answer)["request"][0] == "not looked at"


def test_a_waypoint_without_pods_lets_nothing_through(tmp_path: Path) -> None:
    gone = INLINE.replace("gateway.networking.k8s.io/gateway-name: wp", "app: wp")
    answer = ask(read(tmp_path, gone))
    assert (answer.allowed, answer.decision) == (False, Decision.WAYPOINT_REQUIRED)


def test_the_destination_must_let_the_waypoint_in(tmp_path: Path) -> None:
    closed = "apiVersion: meshnode.io/v1alpha1\nkind: AuthorizationPolicy\n"
    closed += (
        "metadata: {name: closed, namespace: shop}\nspec: {selector: {matchLabels: {app: api}}}"
    )
    answer = ask(read(tmp_path, INLINE + closed))
    assert not answer.allowed
    assert str(answer.decided_by) == "AuthorizationPolicy shop/closed"
    assert [step.what for step in answer.steps if step.decided] == [
        "AuthorizationPolicy shop/closed"
    ]


@pytest.mark.parametrize(
    ("path", "headers", "message"),
    [
        ("x", (), "would be refused with 400"),
        ("/%00", (), "would be refused with 400"),
        ("/", (("Authorization", "Bearer x"),), "either a token or an Authorization header"),
    ],
)
def test_questions_without_sense(
    tmp_path: Path, path: str, headers: tuple[tuple[str, str], ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ask(read(tmp_path), path=path, headers=headers, token="x")


def test_the_command(tmp_path: Path) -> None:
    mesh = tmp_path / "mesh"
    mesh.mkdir()
    read(mesh)
    secret = tmp_path / "token"
    far = 10**10
    secret.write_text(token(KEY, payload(roles=["admin"], exp=far)) + "\n")
    common = ["authz", "check", "shop/front", "shop/api", "80", "--source", f"file:{mesh}"]
    run = CliRunner()
    denied = run.invoke(cli, [*common, "--method", "POST", "--path", "/x"])
    assert denied.exit_code == 1, denied.output
    assert "via  waypoint shop/wp" in denied.output
    allowed = run.invoke(cli, [*common, "--method", "POST", "--token", str(secret)])
    assert allowed.exit_code == 0, allowed.output
    assert secret.read_text().strip() not in allowed.output
    assert run.invoke(cli, [*common, "--header", "X-A: 1", "--path", "/public/a"]).exit_code == 0
    assert run.invoke(cli, [*common, "--header", "X A"]).exit_code != 0
