"""`authz check`: names are resolved, the verdict is the engine's."""

from __future__ import annotations

import pytest

from agent.admin.authz import check_authz
from agent.admin.question import AuthzAnswer, AuthzQuestion
from mesh.errors import ConfigError, MeshnodeError
from mesh.model.verdict import Decision
from tests.unit.agent.admin.fake import mesh


def ask(src: str, dst: str, port: int = 8080) -> AuthzAnswer:
    return check_authz(mesh(), AuthzQuestion(src=src, dst=dst, port=port))


@pytest.mark.parametrize(
    "src", ["shop/cart", "pod/shop/cart", "10.0.0.1", "spiffe://cluster.local/ns/shop/sa/cart"]
)
def test_the_source_may_be_named_in_each_way(src: str) -> None:
    answer = ask(src, "shop/pay")
    assert answer.decision is Decision.ALLOW_RULE
    assert answer.src.identity == "spiffe://cluster.local/ns/shop/sa/cart"
    assert answer.src.workload == "pod/shop/cart"


@pytest.mark.parametrize("src", ["shop/old", "10.0.0.3", "192.0.2.1"])
def test_a_source_outside_the_mesh_has_no_identity(src: str) -> None:
    answer = ask(src, "shop/pay")
    assert (answer.allowed, answer.decision) == (False, Decision.NO_ALLOW_MATCH)
    assert answer.src.identity == ""


@pytest.mark.parametrize("dst", ["shop/payments", "10.96.0.1"])
def test_a_service_is_judged_at_its_endpoint(dst: str) -> None:
    answer = ask("shop/cart", dst, 80)
    assert answer.allowed
    assert (answer.dst.workload, answer.dst.address, answer.port) == (
        "pod/shop/pay",
        "fd00::2",
        8080,
    )


def test_the_steps_show_what_was_looked_at() -> None:
    allowed, denied = ask("shop/cart", "shop/pay"), ask("shop/old", "shop/pay")
    [step] = allowed.steps
    assert (step.what, step.action, step.result, step.decided) == (
        "AuthorizationPolicy shop/only-cart rule[0]",
        "ALLOW",
        "matched",
        True,
    )
    assert denied.steps[0].result == "not matched"
    assert "principals" in denied.steps[0].detail


def test_nobody_enforces_policy_for_a_destination_outside_the_mesh() -> None:
    answer = ask("shop/cart", "shop/old")
    assert answer.allowed
    assert answer.steps[0].result == "not enrolled"


@pytest.mark.parametrize(
    ("src", "dst", "port", "message"),
    [
        ("shop/carts", "shop/pay", 80, "no workload 'shop/carts' is known; did you mean shop/cart"),
        ("shop/cart", "x/y", 80, "no workload or service 'x/y'"),
        ("shop/cart", "192.0.2.1", 80, "no workload or service '192.0.2.1'"),
        ("cart", "shop/pay", 80, "is not an IP address"),
        ("spiffe://x", "shop/pay", 80, "is not a SPIFFE ID"),
        ("shop/cart", "shop/payments", 81, "has no port 81; it has: 80"),
        ("shop/cart", "shop/pay", 0, "0 is not a port"),
    ],
)
def test_bad_questions(src: str, dst: str, port: int, message: str) -> None:
    with pytest.raises(MeshnodeError, match=message):
        ask(src, dst, port)


def test_an_answer_survives_json() -> None:
    from agent.admin.codec import from_json, to_json

    answer = ask("shop/cart", "shop/pay")
    assert from_json(to_json(answer).encode(), AuthzAnswer) == answer
    with pytest.raises(ConfigError, match="allowed"):
        from_json(b"{}", AuthzAnswer)
