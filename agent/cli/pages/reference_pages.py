"""Writes docs/reference/ from the code: `python -m agent.cli.pages.reference_pages docs/reference`.

Objects come from the schemas that read them, findings from their codes, JSON from the classes that
commands encode. A test compares the files with what this makes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from agent.cli.output.schemas import ANSWERS, Schema, schema_of, schemas
from mesh.analyze import hint_of
from mesh.model.codes import Code

_EDIT = (
    "Written by `python -m agent.cli.pages.reference_pages docs/reference`; "
    "edit the code, not this file."
)


def analysis_page() -> str:
    """docs/reference/analysis.md: every code with its hint."""
    lines = ["# Findings of `meshnode analyze`", "", _EDIT, "", "| code | name | what to do |",
             "|---|---|---|"]  # fmt: skip
    lines += [
        f"| {code.value} | {code.name.lower().replace('_', ' ')} | {_cell(hint_of(code))} |"
        for code in Code
    ]
    return "\n".join([*lines, ""])


def answers_page() -> str:
    """docs/reference/answers.md: the JSON of each command, field by field."""
    lines = [
        "# Answers in JSON",
        "",
        _EDIT,
        "",
        "What commands print with `-o json`. `schema_version` is raised when a field changes its",
        "meaning; new fields may come at any time. `tap` and `bpf monitor` print an object per",
        "line, and so does every command with `--watch`. JSON schemas of all commands are in",
        "[schemas/](schemas/stat.json), one file each.",
        "",
    ]
    for command, kind in ANSWERS.items():
        lines += [f"## {command}", "", "| field | type |", "|---|---|"]
        lines += [f"| `{name}` | {text} |" for name, text in _fields_of(kind)]
        lines.append("")
    return "\n".join(lines)


def _fields_of(kind: type) -> Iterator[tuple[str, str]]:
    schema = schema_of(kind)
    definitions = schema.get("$defs", {})
    assert isinstance(definitions, Mapping)
    top = _resolve(schema, definitions)
    yield from _walk(top, definitions, "", ())


def _walk(
    schema: Mapping[str, object],
    definitions: Mapping[str, object],
    prefix: str,
    above: tuple[str, ...],
) -> Iterator[tuple[str, str]]:
    properties = schema.get("properties", {})
    assert isinstance(properties, Mapping)
    for name, raw in properties.items():
        assert isinstance(raw, Mapping)
        text, inner, key = _type(raw, definitions)
        yield f"{prefix}{name}", text
        if inner is not None and key not in above:
            mark = "[]" if text.startswith("list") else ""
            yield from _walk(inner, definitions, f"{prefix}{name}{mark}.", (*above, key))


def _type(
    raw: Mapping[str, object], definitions: Mapping[str, object]
) -> tuple[str, Mapping[str, object] | None, str]:
    """Words for a type, and the object inside it, if there is one."""
    key = str(raw.get("$ref", "")).rpartition("/")[2]
    found = _resolve(raw, definitions)
    if "anyOf" in found:
        options = found["anyOf"]
        assert isinstance(options, list)
        parts = [_type(one, definitions) for one in options if one.get("type") != "null"]
        words = " or ".join(dict.fromkeys(part[0] for part in parts))
        _, within, name = next((part for part in parts if part[1] is not None), (words, None, ""))
        return f"{words} or null" if len(parts) < len(options) else words, within, name
    if "enum" in found:
        values = found["enum"]
        assert isinstance(values, list)
        return " or ".join(f"`{value}`" for value in values), None, ""
    if found.get("type") == "array":
        item = found.get("items")
        if isinstance(item, Mapping):
            text, inner, key = _type(item, definitions)
            return f"list of {text}", inner, key
        return "list", None, ""
    if found.get("type") == "object":
        return ("object", found, key) if "properties" in found else ("object by name", None, "")
    return str(found.get("type", "any")), None, ""


def _resolve(raw: Mapping[str, object], definitions: Mapping[str, object]) -> Mapping[str, object]:
    ref = raw.get("$ref")
    if not isinstance(ref, str):
        return raw
    found = definitions[ref.rpartition("/")[2]]
    assert isinstance(found, Mapping)
    return found


def objects_page() -> str:
    """docs/reference/objects.md: our kinds, field by field, from what reads them."""
    from installer.crds import definitions

    lines = [
        "# Objects",
        "",
        _EDIT,
        "",
        "Kinds of `meshnode.io/v1alpha1`. AuthorizationPolicy, PeerAuthentication and",
        "RequestAuthentication of `security.istio.io/v1` are read too, as are the routes of the",
        "Gateway API. A field that is not listed is an error, never ignored in silence.",
        "",
    ]
    for manifest in definitions():
        spec = _at(manifest, "spec")
        versions = spec["versions"]
        assert isinstance(versions, list)
        schema = _at(_at(versions[0], "schema"), "openAPIV3Schema")
        kind = _at(spec, "names")["kind"]
        lines += [f"## {kind}", "", "| field | type | needed |", "|---|---|---|"]
        lines += list(_object_rows(_at(_at(schema, "properties"), "spec"), "spec"))
        lines.append("")
    return "\n".join(lines)


def _object_rows(schema: Mapping[str, object], prefix: str) -> Iterator[str]:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return
    required = schema.get("required")
    for name, raw in properties.items():
        assert isinstance(raw, Mapping)
        inner, mark = raw, ""
        if raw.get("type") == "array" and isinstance(raw.get("items"), Mapping):
            inner, mark = _at(raw, "items"), "[]"
        needed = "yes" if isinstance(required, list) and name in required else ""
        yield f"| `{prefix}.{name}` | {_schema_words(raw)} | {needed} |"
        yield from _object_rows(inner, f"{prefix}.{name}{mark}")


def _schema_words(raw: Mapping[str, object]) -> str:
    values = raw.get("enum")
    if isinstance(values, list):
        return " or ".join(f"`{value}`" for value in values)
    items = raw.get("items")
    if raw.get("type") == "array" and isinstance(items, Mapping):
        return f"list of {_schema_words(items)}"
    if raw.get("x-kubernetes-int-or-string"):
        return "integer or string"
    return str(raw.get("type", "any"))


def _at(item: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = item[name]
    assert isinstance(found, Mapping)
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _file_name(command: str) -> str:
    words = command.replace(" (several nodes)", " of several nodes").split()
    return f"{'-'.join(words)}.json"


def _schema_page(schema: Schema) -> Callable[[], str]:
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return lambda: json.dumps({**head, **schema}, indent=1) + "\n"


PAGES = {
    "analysis.md": analysis_page,
    "answers.md": answers_page,
    "objects.md": objects_page,
    **{f"schemas/{_file_name(command)}": _schema_page(one) for command, one in schemas().items()},
}


def main() -> None:
    """Write all pages into the directory given as argument."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(make())


if __name__ == "__main__":
    main()
