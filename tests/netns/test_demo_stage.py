"""The demo's stage without a mesh: its applications answer, its checks can see and can fail."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from agent.admin.authz import check_authz
from agent.admin.question import AuthzQuestion
from agent.cli.reach.offline import load_snapshot
from tests.demo.chapters import throughput
from tests.demo.narrator import Narrator
from tests.demo.stage import (
    HTTP_PORT,
    REDIS_PORT,
    Stage,
    curl,
    deny,
    set_stage,
    strict,
    url4,
    url6,
)
from tests.lab import Lab, eventually

pytestmark = pytest.mark.root


@pytest.fixture
def stage(lab: Lab) -> Stage:
    return set_stage(lab)


@pytest.fixture
def heard() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def tell(heard: io.StringIO) -> Narrator:
    return Narrator(Console(file=heard, width=200))


def test_every_application_answers_over_both_families(stage: Stage) -> None:
    for server in (stage.web, stage.orders):
        for url in (url4, url6):
            assert curl(stage.client, url(server)).check().stdout == f"hello from {server.name}\n"
    redis = ["redis-cli", "-h", stage.cache.address6, "-p", str(REDIS_PORT), "ping"]
    assert stage.client.run(redis).check().stdout.strip() == "PONG"
    line = f"{stage.client.address6} /x\n"
    curl(stage.client, url6(stage.web, "/x")).check()
    eventually(lambda: line in stage.seen_by(stage.web))


@pytest.mark.parametrize(
    ("src", "dst", "decided_by"),
    [
        ("shop/web", "shop/orders", "AuthorizationPolicy shop/no-web-to-orders rule[0]"),
        ("legacy/outsider", "shop/orders", "PeerAuthentication shop/strict"),
        ("shop/client", "shop/orders", None),
        ("shop/client", "shop/web", None),
    ],
)
def test_its_objects_are_valid_and_decide_as_the_story_says(
    stage: Stage, src: str, dst: str, decided_by: str | None
) -> None:
    stage.lab.apply("strict", strict())
    stage.lab.apply("no-web-to-orders", deny("no-web-to-orders", src="web", dst="orders"))
    snapshot = load_snapshot(f"file:{stage.lab.objects.path}")
    assert snapshot.problems == ()
    answer = check_authz(snapshot, AuthzQuestion(src=src, dst=dst, port=HTTP_PORT))
    assert answer.allowed is (decided_by is None)
    assert decided_by is None or str(answer.decided_by) == decided_by


def test_the_wire_shows_plaintext_where_there_is_no_mesh(stage: Stage) -> None:
    with stage.lab.capture() as capture:
        curl(stage.client, url4(stage.orders, "/marker-a")).check()
        curl(stage.client, url6(stage.orders, "/marker-b")).check()
        capture.fence()
        assert capture.contains(b"marker-a")
        assert capture.contains(b"marker-b")


def test_throughput_is_measured(stage: Stage, tell: Narrator, heard: io.StringIO) -> None:
    throughput(tell, stage)
    assert tell.broken == []
    assert heard.getvalue().count("Gbit/s") == 2


def test_a_claim_that_does_not_hold_is_told_and_counted(tell: Narrator, heard: io.StringIO) -> None:
    with tell.claim("two is one"):
        assert str(2) == "1", "because"
    with tell.claim("one is one") as claim:
        claim.detail = "[seen]"
    tell.summary()
    assert tell.broken == ["two is one"]
    assert tell.kept == 1
    for text in ("✗ two is one", "because", "✓ one is one — [seen]", "1 of 2 claims"):
        assert text in heard.getvalue()
