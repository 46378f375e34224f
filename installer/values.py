"""Two ways to fill the manifests in: with values, or with what makes Helm fill them in.

The manifests are written once, against `Values`. A chart needs three forms of Helm's language only:
a value as JSON, a value inside a text, and a condition around a whole file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from installer.settings import Json, defaults
from mesh.model.names import SYSTEM_NAMESPACE

Manifest: TypeAlias = "dict[str, object]"

NAMESPACE = "namespace"
"""Name under which manifests ask for the namespace everything is installed into."""

_PART = re.compile(r"\{([A-Za-z.]+)\}")


class Values(Protocol):
    """What manifests are made with."""

    def value(self, name: str) -> object:
        """A setting as it is: text, number, list or mapping."""
        ...

    def text(self, form: str) -> object:
        """`form` with every `{setting}` filled in."""
        ...

    def record(self) -> object:
        """All values as one JSON text, so that an upgrade can start from them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """Manifests that belong together.

    Attributes:
        name: without a suffix; the chart's template is called so.
        when: a setting that must be true for them to exist; empty = always.
    """

    name: str
    manifests: Sequence[Manifest]
    when: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """Real values."""

    namespace: str = SYSTEM_NAMESPACE
    values: Mapping[str, Json] = field(default_factory=defaults)

    def value(self, name: str) -> object:
        return self.namespace if name == NAMESPACE else self.values[name]

    def text(self, form: str) -> object:
        return _PART.sub(lambda found: _plain(self.value(found[1])), form)

    def record(self) -> object:
        from installer.settings import tree_of

        return _json(tree_of(self.values))

    def includes(self, file: File) -> bool:
        return not file.when or bool(self.values[file.when])


class Templated:
    """Helm expressions in place of values.

    YAML is written with marks, which `fill` replaces afterwards: an expression is no YAML.
    """

    def __init__(self) -> None:
        self._expressions: list[str] = []

    def value(self, name: str) -> object:
        return self._mark("{{ toJson " + _reference(name) + " }}")

    def text(self, form: str) -> object:
        inner = _PART.sub(lambda found: "{{ " + _reference(found[1]) + " }}", form)
        return self._mark(f'"{inner}"')

    def record(self) -> object:
        return self._mark('{{ toJson (toJson (omit .Values "global")) }}')

    def fill(self, text: str) -> str:
        """Put the expressions where their marks are; braces of others (Grafana's, Prometheus')
        pass through Helm as they are."""
        text = text.replace("{{", '{{ "{{" }}')
        return re.sub(r"MESHNODE-MARK-(\d+)-", lambda m: self._expressions[int(m[1])], text)

    def _mark(self, expression: str) -> str:
        self._expressions.append(expression)
        return f"MESHNODE-MARK-{len(self._expressions) - 1}-"


def _plain(value: object) -> str:
    """As Helm writes it inside a text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reference(name: str) -> str:
    return ".Release.Namespace" if name == NAMESPACE else f".Values.{name}"


def _json(value: object) -> str:
    """As Helm's `toJson` writes it: sorted, without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
