"""Every command as a new user types it, on a mesh that runs: for people, as JSON, and refused.

What is printed as JSON is held against the published schema. A command that is not in the table
fails the first test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import jsonschema
import pytest

from agent.cli.output.schemas import schemas
from agent.cli.pages.reference import commands_below
from tests.lab import Process, eventually
from tests.netns.cli.command_table import ANY, ELSEWHERE, TABLE, Try
from tests.netns.cli.shopfront import POLICY, Typed, Typist, shopfront, watching
from tests.netns.waypoint.mesh import Shop

pytestmark = [pytest.mark.root, pytest.mark.slow]


@dataclass(frozen=True, slots=True)
class Place:
    """The scene, and what stands for the words in braces."""

    shop: Shop
    tmp: Path
    typist: Typist

    def words(self, text: str, turn: str) -> list[str]:
        lab = self.shop.lab
        found = {
            "node": self.shop.client.node.name,
            "far": self.shop.v1.node.name,
            "tmp": self.tmp,
            "ca": self.tmp / "ca",
            "objects": lab.objects.path,
            "turn": turn,
        }
        return [word.format(**found) for word in text.split()]

    def typed(self, text: str, turn: str, *more: str) -> Typed:
        return self.typist(*self.words(text, turn), *more)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    tmp = tmp_path_factory.mktemp("typed")
    with shopfront("typed") as scene, Typist() as typist:
        made = Place(scene, tmp, typist)
        assert made.typed("ca init --ca {ca}", "").status == 0
        yield made


def test_no_command_is_forgotten() -> None:
    every = {
        " ".join(path[1:]) for command, path in commands_below()
        if not isinstance(command, click.Group)
    }  # fmt: skip
    tried = {name for name in every for one in TABLE if f"{one.words} ".startswith(f"{name} ")}
    assert every - tried == set(ELSEWHERE)


@pytest.mark.parametrize("one", TABLE, ids=str)
def test_for_people(place: Place, one: Try) -> None:
    done = place.typed(one.words, "people")
    assert one.says in done.stdout, done
    assert done.status == one.ends or (one.ends == ANY and done.status in (0, 1, 5)), done
    assert "\x1b[" not in done.stdout, "colours belong on a terminal"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("one", [one for one in TABLE if one.schema], ids=str)
def test_for_programs(place: Place, one: Try) -> None:
    done = place.typed(one.words, "json", "-o", "json")
    assert done.status == one.ends or (one.ends == ANY and done.status in (0, 1, 5)), done
    jsonschema.validate(json.loads(done.stdout), schemas()[one.schema])


@pytest.mark.parametrize("one", [one for one in TABLE if one.wrong], ids=lambda one: one.wrong)
def test_what_is_wrong_ends_with_its_code_and_a_next_step(place: Place, one: Try) -> None:
    done = place.typed(one.wrong, "wrong")
    assert done.status == one.fails, done
    assert one.next in done.stderr, done
    assert "Traceback" not in done.stderr
    if one.schema:
        told = place.typed(one.wrong, "wrong", "-o", "json")
        assert told.status == one.fails, told
        jsonschema.validate(json.loads(told.stdout), schemas()["error"])


def test_a_token_and_a_root_to_their_ends(place: Place) -> None:
    assert place.typed("token create n3 --ca {ca}", "").status == 0
    listed = json.loads(place.typed("token list --ca {ca}", "", "-o", "json").stdout)
    (token,) = [one for one in listed["tokens"] if one["node"] == "n3"]
    revoked = place.typed(f"token revoke {token['token_id']} --ca {{ca}}", "", "-o", "json")
    jsonschema.validate(json.loads(revoked.stdout), schemas()["token revoke"])
    again = place.typed(f"token revoke {token['token_id']} --ca {{ca}}", "")
    assert again.status == 1
    assert place.typed("ca rotate-root --ca {ca}", "").status == 0
    active = place.typed("ca activate-root --yes --ca {ca}", "", "-o", "json")
    jsonschema.validate(json.loads(active.stdout), schemas()["ca activate-root"])


def test_a_report_is_packed(place: Place) -> None:
    done = place.typed("bug-report -f {tmp}/report.tar.gz --node {node}", "", "-o", "json")
    assert (done.status, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    jsonschema.validate(found, schemas()["bug-report"])
    assert found["failed"] == []
    for wrong, said in (("report.tar.gz", "is there already"), ("no/where.tar.gz", "use -f FILE")):
        refused = place.typed(f"bug-report -f {{tmp}}/{wrong} --node {{node}}", "")
        assert (refused.status, said in refused.stderr) == (1, True), refused


def test_requests_as_they_end(place: Place) -> None:
    watch = watching(place.shop, "tap", "shop/web", "--denied", "-o", "json", "-c", "1")

    def seen() -> str | None:
        place.shop.get("/admin/users")
        return next((line for line in watch.output.splitlines() if line.startswith("{")), None)

    line = eventually(seen, 60.0, "an event")
    assert line is not None
    jsonschema.validate(json.loads(line), schemas()["tap"])


def test_watching_is_the_same_everywhere(place: Place) -> None:
    """Every answer that can be watched is one object per line."""
    for words in (
        "status --node {node}",
        "stat",
        "edges",
        "certs --node {node}",
        "connections --node {node}",
        "describe pod shop/web-v1",
        "check --node {node}",
    ):
        watch = watching(place.shop, *place.words(words, ""), "--watch", "-o", "json")

        def twice(watch: Process = watch) -> bool:
            return watch.output.count("\n") >= 2

        eventually(twice, 60.0, f"two answers of {words}")
        watch.stop()
        lines = [line for line in watch.output.splitlines() if line.startswith("{")]
        assert len(lines) >= 2, watch.output
        jsonschema.validate(json.loads(lines[0]), schemas()[words.split()[0]])


def test_the_rule_is_the_same_in_prose(place: Place) -> None:
    text = place.typed("describe service shop/web --node {node}", "").stdout
    assert f"DENY AuthorizationPolicy {POLICY} (2 rules" in text
    assert "Its endpoints: pod/shop/web-v1, pod/shop/web-v2." in text, "one of two addresses"
