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

from agent.cli.reference import commands_below
from agent.cli.schemas import schemas
from tests.lab import Process, eventually
from tests.netns.cli.shopfront import POLICY, RULE, Typed, Typist, shopfront, watching
from tests.netns.waypoint.mesh import Shop

pytestmark = [pytest.mark.root, pytest.mark.slow]
ANY = -1
"""Ends with what is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One command. `{node}`, `{far}`, `{tmp}`, `{ca}`, `{objects}` and `{turn}` are filled in.

    Attributes:
        says: what its answer for people holds.
        ends: exit code of both.
        schema: name of the schema; empty for a command without JSON.
        wrong: words after the command that must be refused, `fails` the exit code, and `next` what
            the one line about it says: what is wrong, or what to do.
    """

    words: str
    says: str
    ends: int = 0
    schema: str = ""
    wrong: str = ""
    fails: int = 1
    next: str = ""

    def __str__(self) -> str:
        return self.words


ASK = "authz check shop/client shop/web 80 --node {node} --path"
TABLE = (
    Try(
        words="status --node {node}",
        says="ready:",
        schema="status",
        wrong="status --node nobody",
        fails=2,
        next="start it with `meshnode agent`",
    ),
    Try(
        words="check --node {node}",
        says="failed, 0 skipped",
        schema="check",
        wrong="check --cluster --kubeconfig {tmp}/none",
        next="use --kubeconfig FILE",
    ),
    Try(
        words="stat service --since 5m",
        says="shop/web",
        schema="stat",
        wrong="stat --since 2h",
        next="--prometheus URL",
    ),
    Try(
        words="edges --since 5m",
        says="hbone",
        schema="edges",
        wrong="edges --since soon",
        next="soon",
    ),
    Try(words="top --once", says="FROM", schema="top", wrong="top --rows 0", next="--rows"),
    Try(
        words=f"{ASK} /admin/x",
        says=f"denied by {RULE}",
        ends=1,
        schema="authz check",
        wrong="authz check shop/nobody shop/web 80 --node {node}",
        next="shop/nobody",
    ),
    Try(
        words=f"{ASK} /items",
        says="allowed",
        schema="authz check",
        wrong="authz check shop/client shop/web 80 --node {node} --source file:{tmp}/none",
        next="is not a directory",
    ),
    Try(
        words="describe service shop/web --node {node}",
        says="behind waypoint shop/gate",
        schema="describe",
        wrong="describe pod shop/none --node {node}",
        next="shop/none",
    ),
    Try(
        words="describe pod shop/web-v1 --node {node}",
        says="is in the mesh",
        schema="describe",
        wrong="describe planet mars",
        next="is not one of",
    ),
    Try(
        words="describe namespace shop --node {node}",
        says="pods are in the mesh",
        schema="describe",
        wrong="describe namespace shopp --node {node}",
        next="did you mean shop",
    ),
    Try(
        words="routes shop/web --path /x --node {node}",
        says="HTTPRoute/shop/web/all",
        schema="routes",
        wrong="routes shop/none --node {node}",
        next="shop/none",
    ),
    Try(
        words="analyze --source file:{objects}",
        says="",
        ends=ANY,
        schema="analyze",
        wrong="analyze --source file:{tmp}/none",
        next="is not a directory",
    ),
    Try(
        words="connections --node {node}",
        says="AGE",
        schema="connections",
        wrong="connections --node nobody",
        fails=2,
        next="`meshnode check` says what is missing",
    ),
    Try(
        words="certs --node {node}",
        says="valid",
        schema="certs",
        wrong="certs --node nobody",
        fails=2,
        next="start it with",
    ),
    Try(
        words="config dump --node {node}",
        says='"workloads"',
        wrong="config dump --node nobody",
        fails=2,
        next="start it with",
    ),
    Try(
        words="config dump shop/gate",
        says='"in_force"',
        wrong="config dump shop/none",
        next="there are: shop/gate",
    ),
    Try(
        words="config diff --source file:{objects} --node {node}",
        says="difference",
        ends=ANY,
        schema="config diff",
        wrong="config diff a b c",
        next="name two nodes",
    ),
    Try(
        words="log --node {node}",
        says="info",
        schema="log",
        wrong="log --level loud --node {node}",
        next="is not one of",
    ),
    *(
        Try(
            words=f"bpf {name} --node {{node}}",
            says=says,
            schema=f"bpf {name}",
            wrong=f"bpf {name} --node nobody",
            fails=2,
            next="nothing is pinned",
        )
        for name, says in {
            "maps": "mn_workload",
            "progs": "mn_connect4",
            "links": "mn_zt_sockops",
            "enrolled": "client",
            "origdst": "connection",
            "identity": "web-v1",
            "policy": "verdict",
            "service": "shop/web",
            "stats": "row",
            "flows": "flow",
            "drops": "REASON",
            "fsck": "0",
        }.items()
    ),
    Try(
        words="bpf diff --node {node}",
        says="0 differences",
        schema="bpf diff",
        wrong="bpf diff --node nobody",
        fails=2,
        next="start it with",
    ),
    Try(
        words="completion bash",
        says="_MESHNODE_COMPLETE",
        wrong="completion tcsh",
        next="is not one of",
    ),
    Try(
        words="ca init --ca {tmp}/ca-{turn}",
        says="SHA256",
        schema="ca init",
        wrong="ca init --ca {ca}",
        next="choose another directory",
    ),
    Try(
        words="token create n2 --ca {ca}",
        says="",
        schema="token create",
        wrong="token create n2 --ca {tmp}/none",
        next="meshnode ca init",
    ),
    Try(
        words="token list --ca {ca}",
        says="NODE",
        schema="token list",
        wrong="token list",
        next="--ca",
    ),
    Try(
        words="ca roots --ca {ca}",
        says="active",
        schema="ca roots",
        wrong="ca roots",
        next="Say which authority",
    ),
    Try(
        words="ca rotate-root --ca {tmp}/ca-{turn}",
        says="SHA256",
        schema="ca rotate-root",
        wrong="ca rotate-root --ca {tmp}/none",
        next="meshnode ca init",
    ),
    Try(
        words="install",
        says="kind: DaemonSet",
        wrong="install --set agent.workers=none",
        next="agent.workers",
    ),
    Try(
        words="uninstall --yes --node gone",
        says="nothing of node gone was left",
        schema="uninstall",
        wrong="uninstall --yes --node {node}",
        next="is running already",
    ),
    Try(words="holder --help", says="--grace", wrong="holder --what", next="required: --node"),
)
ELSEWHERE = {
    "tap": "below",
    "dashboard": "below",
    "bpf monitor": "tests/netns/cli/test_traffic.py",
    "bug-report": "below",
    "token revoke": "below",
    "ca activate-root": "below",
    "enroll": "tests/kube/test_people_commands.py",
    "unenroll": "tests/kube/test_people_commands.py",
    "waypoint apply": "tests/kube/test_people_commands.py",
    "waypoint list": "tests/kube/test_people_commands.py",
    "waypoint status": "tests/kube/test_people_commands.py",
    "waypoint delete": "tests/kube/test_people_commands.py",
    "upgrade": "tests/unit/installer/test_install.py",
    "agent": "runs here",
    "controller": "tests/netns/monitoring/test_dashboards.py",
}
"""Commands that need more than a line, or a cluster: where they are tried."""


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
