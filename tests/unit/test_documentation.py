"""The documentation says what the code does: references, examples, commands; the site builds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import jsonschema
import pytest

from agent.cli.checks.result import Anchor
from agent.cli.main import cli
from agent.cli.output.schemas import ANSWERS, schema_of
from agent.cli.pages.reference_pages import PAGES
from mesh.sources.file import FileSource
from tests.unit.agent.cli.invoke import meshnode
from tests.unit.agent.cli.shop import shop_directory

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = sorted((DOCS / "guides").glob("*.md"))
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def blocks(document: Path, language: str) -> list[str]:
    """Code blocks of a language, without the indentation of the list they stand in."""
    found = BLOCK.findall(document.read_text())
    return [textwrap.dedent(text) for _, kind, text in found if kind == language]


@pytest.mark.parametrize("name", PAGES)
def test_reference_pages_are_what_the_code_says(name: str) -> None:
    hint = "run `python -m agent.cli.pages.reference_pages docs/reference`"
    assert (DOCS / "reference" / name).read_text() == PAGES[name](), hint


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_examples_can_be_used_as_they_stand(guide: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(guide, "yaml")):
        (tmp_path / f"{number}.yaml").write_text(text)
    assert FileSource(tmp_path).load_once().problems == ()


def commands(document: Path) -> Iterator[str]:
    """Lines that call `meshnode`, without comments and what they are piped into."""
    for text in (*blocks(document, ""), *blocks(document, "bash")):
        for line in text.splitlines():
            if line.startswith("meshnode "):
                yield re.split(r"\s+#\s|\s\|\s", line)[0].strip()


CALLS = [
    (path.stem, call) for path in [*GUIDES, DOCS / "index.md", DOCS / "install.md"]
    for call in commands(path)
]  # fmt: skip


@pytest.mark.parametrize("call", sorted({call for _, call in CALLS}))
def test_commands_of_the_guides_exist(call: str) -> None:
    words = call.split()[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="meshnode")
    while words and isinstance(command, click.Group):
        child = command.get_command(context, words[0])
        if child is None:
            break
        command, words = child, words[1:]
    assert command is not cli, call
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    used = {word.partition("=")[0] for word in words if re.match(r"-+[a-z]", word)}
    assert used <= options | {"--help"}, call


def test_every_hint_has_its_section() -> None:
    headings = set(re.findall(r"^## (.+)$", (DOCS / "troubleshooting.md").read_text(), re.M))
    assert {str(anchor) for anchor in Anchor} <= headings


ANSWERED = {
    "describe": ("describe", "pod", "shop/web-v1"),
    "routes": ("routes", "shop/web", "--path", "/items"),
    "authz check": ("authz", "check", "shop/client", "shop/web", "80", "--path", "/items"),
    "analyze": ("analyze",),
}


@pytest.mark.parametrize("command", ANSWERED)
def test_answers_keep_their_schema(command: str, tmp_path: Path) -> None:
    source = shop_directory(tmp_path / "objects")
    text = meshnode(*ANSWERED[command], "--source", source, "-o", "json").stdout
    jsonschema.validate(json.loads(text), schema_of(ANSWERS[command]))


@pytest.mark.parametrize("command", ANSWERS)
def test_every_answer_has_a_version(command: str) -> None:
    assert "schema_version" in json.dumps(schema_of(ANSWERS[command]))


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "index.html").read_text()
    assert "fonts.googleapis" not in page
