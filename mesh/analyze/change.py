"""One object against all others, before it is taken in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mesh.analyze.finding import Finding, finding
from mesh.analyze.run import analyze
from mesh.model.codes import Code
from mesh.model.snapshot import Severity
from mesh.sources.decode import decode, name_of
from mesh.sources.fields import FieldError
from mesh.sources.objects import ObjectSet, SourceObject


def analyze_change(objects: ObjectSet, raw: Mapping[str, object]) -> list[Finding]:
    """Findings about an object as if it had been applied to the others.

    Args:
        raw: the object as JSON or YAML gives it, with apiVersion and kind.
    """
    name = name_of(raw)
    subject = str(name) if name is not None else ""
    try:
        item = decode(_without_nulls(raw), subject)
    except FieldError as error:
        return [finding(Code.UNREADABLE, subject, subject, str(error), Severity.ERROR)]
    others = tuple(other for other in objects.objects if not _is_same(other, item))
    found = analyze(replace(objects, objects=(*others, item)))
    return [one for one in found if one.subject == item.subject]


def _is_same(one: SourceObject, other: SourceObject) -> bool:
    return (one.kind, one.namespace, one.name) == (other.kind, other.namespace, other.name)


def _without_nulls(value: object) -> object:
    """Drop what is null: it means absent, as in Kubernetes."""
    if isinstance(value, Mapping):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
