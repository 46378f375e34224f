"""describe, routes, analyze and authz check on files: sentences, JSON, exit codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agent.admin.describe import Description
from agent.admin.matching import RoutesAnswer
from agent.admin.question import AuthzAnswer
from agent.cli.analyze import Analysis
from tests.unit.agent.admin.fake import FakeNode, running_admin
from tests.unit.agent.cli.invoke import error_of, meshnode
from tests.unit.agent.cli.shop import shop_directory


@pytest.fixture
def source(tmp_path: Path) -> str:
    return shop_directory(tmp_path / "objects")


def test_a_pod_in_sentences(source: str) -> None:
    text = meshnode("describe", "pod", "shop/web-v1", "--source", source).stdout
    assert "Pod shop/web-v1 is in the mesh, on node n1." in text
    assert "It speaks as spiffe://cluster.local/ns/shop/sa/web-v1" in text
    assert "It takes no plaintext (STRICT, by PeerAuthentication shop/strict)." in text
    assert "ALLOW AuthorizationPolicy shop/client-only" in text
    assert "It serves shop/web." in text


def test_a_service_in_sentences(source: str) -> None:
    text = meshnode("describe", "service", "shop/web", "--source", source).stdout
    assert "Service shop/web answers at 10.96.0.1:80." in text
    assert "It is behind waypoint shop/gate (1 ready)" in text
    assert "DENY AuthorizationPolicy shop/no-admin (1 rules, enforced by waypoint" in text
    assert "a request may take 2 s; retries: 3 on 503" in text


def test_a_namespace_in_sentences(source: str) -> None:
    text = meshnode("describe", "namespace", "shop", "--source", source).stdout
    assert "Namespace shop: 2 of 3 pods are in the mesh." in text or "3 of 3" in text
    assert "shop/gate" in text


@pytest.mark.parametrize(
    ("what", "name"), [("pod", "shop/web-v1"), ("service", "shop/web"), ("namespace", "shop")]
)
def test_descriptions_for_programs(source: str, what: str, name: str) -> None:
    result = meshnode("describe", what, name, "--source", source, "-o", "json")
    found = msgspec.json.decode(result.stdout, type=Description)
    assert (str(found.what), found.name) == (what, name)


def test_what_is_not_known_is_said_with_a_hint(source: str) -> None:
    result = meshnode("describe", "pod", "shop/wob", "--source", source, "-o", "json")
    assert (result.exit_code, error_of(result)["code"]) == (1, "bad_input")
    assert "did you mean shop/web" in result.stderr


def test_the_agent_describes_too(tmp_path: Path) -> None:
    node = FakeNode()
    with running_admin(node, tmp_path / "s"):
        text = meshnode("describe", "pod", "shop/pay", socket=tmp_path / "s").stdout
        assert "Its enrolment is failed: canary: connection refused." in text
        assert "Pod shop/pay is in the mesh" in text
        result = meshnode("describe", "pod", "shop/pax", socket=tmp_path / "s")
        assert (result.exit_code, "did you mean shop/pay" in result.stderr) == (1, True)


def test_the_winner_and_why(source: str) -> None:
    arguments = ("routes", "shop/web", "--path", "/admin/x", "--header", "role:boss")
    result = meshnode(*arguments, "--source", source)
    assert result.exit_code == 0
    assert result.stdout.startswith("forwarded by HTTPRoute/shop/web/admin")
    assert "<-- matched path PathPrefix /admin, header role Exact boss" in result.stdout
    text = meshnode(*arguments, "--source", source, "-o", "json").stdout
    found = msgspec.json.decode(text, type=RoutesAnswer)
    assert found.winner == "HTTPRoute/shop/web/admin"
    assert found.backends == ("shop/web:80 100%",)
    assert [row.wins for row in found.rows] == [True, False]


def test_a_request_that_nothing_takes(source: str) -> None:
    result = meshnode("routes", "shop/web", "--path", "/other", "--source", source)
    assert result.exit_code == 1
    assert result.stdout.startswith("answered 404: routes are attached and none matches")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shop/web", "--port", "81"), "has no port 81; it has: 80"),
        (("shop/wob",), "did you mean shop/web"),
        (("shop/web", "--header", "x"), "write NAME:VALUE"),
        (("shop/web", "--path", "/a%zz"), "would be refused with 400"),
    ],
    ids=str,
)
def test_bad_questions(source: str, arguments: tuple[str, ...], message: str) -> None:
    result = meshnode("routes", *arguments, "--source", source)
    assert (result.exit_code, message in result.stderr) == (1, True), result.stderr


def test_a_request_is_denied_by_its_rule(source: str) -> None:
    arguments = ("authz", "check", "shop/client", "shop/web", "80", "--source", source)
    denied = meshnode(*arguments, "--path", "/admin/x", "-o", "json")
    found = msgspec.json.decode(denied.stdout, type=AuthzAnswer)
    assert (denied.exit_code, found.allowed, found.waypoint) == (1, False, "shop/gate")
    assert str(found.decided_by) == "AuthorizationPolicy shop/no-admin rule[0]"
    assert meshnode(*arguments, "--path", "/items").exit_code == 0


def test_analyze_finds_what_a_file_would_break(source: str, tmp_path: Path) -> None:
    well = meshnode("analyze", "--source", source)
    assert (well.exit_code, "MN" in well.stdout) == (0, False), well.stdout
    new = tmp_path / "new"
    new.mkdir()
    (new / "bad.yaml").write_text(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n"
        "metadata: {name: lost, namespace: shop}\n"
        'spec: {parentRefs: [{group: "", kind: Service, name: nobody}], rules: []}\n'
    )
    result = meshnode("analyze", str(new), "--source", source, "--threshold", "warning")
    assert (result.exit_code, "MN03" in result.stdout) == (1, True), result.stdout
    assert "hint: " in result.stdout
    body = meshnode("analyze", str(new), "--source", source, "-o", "json")
    found = msgspec.json.decode(body.stdout, type=Analysis)
    assert "HTTPRoute shop/lost" in {one.subject for one in found.findings}
    assert all(one.hint for one in found.findings)


def test_analyze_of_a_running_agents_source(source: str, tmp_path: Path) -> None:
    node = FakeNode()
    node.state = replace(node.state, source=source)
    with running_admin(node, tmp_path / "s"):
        assert meshnode("analyze", socket=tmp_path / "s").stdout.startswith("no findings in ")
