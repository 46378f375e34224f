"""`meshnode analyze`: what is wrong with a configuration, before it hurts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import click

from agent.cli.output.exits import Exit
from agent.cli.output.shared import Output, answer, node_option, output_option, paths_of
from agent.cli.output.table import Coloured, clean, columns, counted, table
from agent.cli.reach.live import admin
from agent.cli.reach.offline import load_objects
from mesh.errors import ConfigError
from mesh.model.snapshot import Severity
from mesh.sources.objects import ObjectSet

SCHEMA_VERSION = 1
_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingShown:
    """One finding; `code` is stable and has a section in docs/reference/analysis.md."""

    code: str
    severity: Severity
    subject: str
    where: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """`meshnode analyze -o json`."""

    schema_version: int = SCHEMA_VERSION
    objects: int
    findings: tuple[FindingShown, ...]


@click.command()
@click.argument("directories", nargs=-1, type=click.Path(file_okay=False, exists=True))
@click.option(
    "--source",
    metavar="file:DIR|kubernetes[:KUBECONFIG]",
    help="Objects that are there already; those in DIRECTORIES are laid over them.",
)
@click.option(
    "--threshold",
    type=click.Choice([str(one) for one in Severity]),
    default=str(Severity.ERROR),
    show_default=True,
    help="Least severity that ends with 1.",
)
@node_option
@output_option()
@click.pass_context
def analyze(
    context: click.Context,
    directories: tuple[str, ...],
    source: str | None,
    threshold: str,
    node: str | None,
    output: Output,
) -> None:
    """Find what is wrong with objects, each finding with a code and a hint.

    DIRECTORIES hold YAML that is not applied yet. With neither them nor --source, the objects of
    the running agent's source are analyzed. Ends with 1 if something is found.
    """
    from mesh.analyze import analyze as find

    sources = [source] if source else []
    sources += [f"file:{name}" for name in directories]
    objects = _overlaid([load_objects(one) for one in sources or [_own_source(node)]])
    found = Analysis(
        objects=len(objects.objects),
        findings=tuple(
            FindingShown(
                code=str(one.code),
                severity=one.severity,
                subject=one.subject,
                where=one.where,
                message=one.message,
                hint=one.hint,
            )
            for one in find(objects)
        ),
    )
    answer(output, found, lambda: format_analysis(found))
    bad = {Severity.ERROR} if threshold == Severity.ERROR else set(Severity)
    if any(one.severity in bad for one in found.findings):
        context.exit(Exit.NEGATIVE)


def _own_source(node: str | None) -> str:
    source = admin(paths_of(node)).status().source
    if not source.startswith(("file:", "kubernetes")):
        raise ConfigError(f"the agent's source {source!r} cannot be read from here: use --source")
    return source


def _overlaid(sets: list[ObjectSet]) -> ObjectSet:
    """Later objects replace earlier ones of the same kind and name."""
    merged = ObjectSet()
    for one in sets:
        names = {item.subject for item in one.objects}
        kept = tuple(item for item in merged.objects if item.subject not in names)
        merged = replace(
            merged, objects=(*kept, *one.objects), problems=(*merged.problems, *one.problems)
        )
    return merged


def format_analysis(found: Analysis) -> str:
    """A table of the findings, each with its hint below."""
    if not found.findings:
        return f"no findings in {counted(found.objects, 'object')}"
    rows = [
        (one.code, Coloured(one.severity, _COLOURS[one.severity]), one.subject, one.where)
        for one in found.findings
    ]
    lines = table(columns("CODE SEVERITY OBJECT WHERE"), rows).splitlines()
    text = [lines[0]]
    for line, one in zip(lines[1:], found.findings, strict=True):
        text += [line, f"        {clean(one.message)}", f"        hint: {clean(one.hint)}"]
    number = counted(len(rows), "finding")
    return "\n".join([*text, f"{number} in {counted(found.objects, 'object')}"])
