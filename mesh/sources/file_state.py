"""What one file last said: its good objects, and what is wrong with it now. Pure.

A text that is no YAML keeps all objects of the file; a broken object keeps its own last good
version. Either way the problem stays visible until the file is mended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.model.snapshot import Problem, Severity
from mesh.sources.decode import ObjectName, decode, name_of
from mesh.sources.documents import Document, DocumentError, load_documents
from mesh.sources.fields import FieldError
from mesh.sources.objects import SourceObject


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """Objects and problems of one file."""

    objects: tuple[SourceObject, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_text(path: str, data: bytes, previous: FileState) -> FileState:
    """Read a file's content; `path` is how problems name it."""
    try:
        documents = load_documents(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return unreadable(f"{path}:{line}", "not UTF-8 text", previous)
    except DocumentError as error:
        return unreadable(f"{path}:{error.line}", str(error), previous)
    known = {_name(item): item for item in previous.objects}
    objects: list[SourceObject] = []
    problems: list[Problem] = []
    for document in documents:
        _read_document(path, document, known, objects, problems)
    return FileState(objects=tuple(objects), problems=tuple(problems))


def unreadable(where: str, message: str, previous: FileState) -> FileState:
    """Keep what the file last said, and say what is wrong with it."""
    kept = len(previous.objects)
    if kept:
        message += f" (its last good state, {kept} object{'s' if kept > 1 else ''}, stays in force)"
    problem = Problem(where=where, subject="", message=message)
    return FileState(objects=previous.objects, problems=(problem,))


def ignored(where: str, message: str) -> FileState:
    """A file that is not read, and why."""
    problem = Problem(where=where, subject="", message=message, severity=Severity.WARNING)
    return FileState(problems=(problem,))


def _name(item: SourceObject) -> ObjectName:
    return ObjectName(kind=item.kind, namespace=item.namespace, name=item.name)


def _read_document(
    path: str,
    document: Document,
    known: Mapping[ObjectName, SourceObject],
    objects: list[SourceObject],
    problems: list[Problem],
) -> None:
    try:
        item = decode(document.data, f"{path}:{document.line}")
    except FieldError as error:
        name = name_of(document.data)
        kept = known.get(name) if name else None
        message = str(error)
        if kept is not None:
            objects.append(kept)
            message += " (its last good version stays in force)"
        line = document.line_of(error.path, at_key=error.at_key)
        subject = str(name) if name else ""
        problems.append(Problem(where=f"{path}:{line}", subject=subject, message=message))
        return
    # An equal object keeps its identity, so that everything behind can compare quickly.
    before = known.get(_name(item))
    objects.append(before if before == item else item)
