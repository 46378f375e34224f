"""`meshnode token` and `meshnode ca` on a real state directory; `authz check` from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.agent.cli.invoke import error_of, meshnode

POD = """\
apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{meshnode.io/dataplane: enabled}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}
spec: {{serviceAccountName: {name}, nodeName: n1}}
status: {{podIP: {ip}}}
"""
DENY = """\
apiVersion: meshnode.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-redis, namespace: shop}
spec:
  action: DENY
  rules: [{to: [{operation: {ports: ["6379"]}}]}]
"""


@pytest.fixture
def ca_dir(tmp_path: Path) -> str:
    directory = tmp_path / "ca"
    result = meshnode("ca", "init", "--ca", str(directory), "-o", "json")
    assert result.exit_code == 0, result.output
    assert [root["stage"] for root in json.loads(result.stdout)["roots"]] == ["active"]
    return str(directory)


def test_a_token_from_creation_to_revocation(ca_dir: str) -> None:
    token = meshnode("token", "create", "n2", "--ca", ca_dir).stdout.strip()
    assert token.startswith("mn1.n2.")
    [listed] = json.loads(meshnode("token", "list", "--ca", ca_dir, "-o", "json").stdout)["tokens"]
    assert listed["node"] == "n2"
    table = meshnode("token", "list", "--ca", ca_dir).stdout
    assert listed["token_id"] in table
    assert token.split(".")[2] not in table  # the secret
    assert meshnode("token", "revoke", listed["token_id"], "--ca", ca_dir).exit_code == 0
    assert meshnode("token", "list", "--ca", ca_dir).stdout.splitlines()[-1] == "0 tokens"


def test_a_token_for_no_node(ca_dir: str) -> None:
    result = meshnode("token", "create", "Bad_Name", "--ca", ca_dir)
    assert result.exit_code == 1
    assert "is not a node name" in result.stderr


def test_revoking_what_is_not_there(ca_dir: str) -> None:
    result = meshnode("token", "revoke", "0000", "--ca", ca_dir, "-o", "json")
    assert (result.exit_code, error_of(result)["code"]) == (1, "bad_input")


def test_a_directory_without_a_ca(tmp_path: Path) -> None:
    result = meshnode("token", "list", "--ca", str(tmp_path / "nothing"))
    assert result.exit_code == 1
    assert result.stderr.startswith("meshnode: ")


def test_a_ca_is_never_overwritten(ca_dir: str) -> None:
    result = meshnode("ca", "init", "--ca", ca_dir)
    assert result.exit_code == 1
    assert "already holds CA state" in result.stderr


def test_root_rotation(ca_dir: str) -> None:
    published = meshnode("ca", "rotate-root", "--ca", ca_dir, "-o", "json")
    assert [root["stage"] for root in json.loads(published.stdout)["roots"]] == ["active", "next"]
    asked = meshnode("ca", "activate-root", "--ca", ca_dir)
    assert asked.exit_code == 1  # nobody said yes
    done = meshnode("ca", "activate-root", "--ca", ca_dir, "--yes", "-o", "json")
    stages = {root["stage"] for root in json.loads(done.stdout)["roots"]}
    assert stages == {"active", "retiring"}
    assert "2 roots" in meshnode("ca", "roots", "--ca", ca_dir).stdout


def test_authz_check_from_files(tmp_path: Path) -> None:
    (tmp_path / "pods.yaml").write_text(POD.format(name="web", ip="10.0.0.1"))
    (tmp_path / "more.yaml").write_text(POD.format(name="redis", ip="10.0.0.2").split("---\n")[1])
    (tmp_path / "deny.yaml").write_text(DENY)
    (tmp_path / "broken.yaml").write_text("kind: [")
    source = f"file:{tmp_path}"
    denied = meshnode("authz", "check", "shop/web", "shop/redis", "6379", "--source", source)
    assert denied.exit_code == 1
    assert denied.stdout.startswith("denied by AuthorizationPolicy shop/no-redis rule[0]")
    assert "left out" in denied.stderr
    assert "broken.yaml" in denied.stderr
    allowed = meshnode("authz", "check", "shop/web", "shop/redis", "80", "--source", source)
    assert allowed.exit_code == 0


def test_authz_check_from_nowhere(tmp_path: Path) -> None:
    source = f"file:{tmp_path}/none"
    result = meshnode("authz", "check", "a/b", "c/d", "1", "--source", source)
    assert result.exit_code == 1
    assert "is not a directory" in result.stderr
