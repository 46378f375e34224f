"""YAML (and JSON, its subset) with line numbers and without bombs.

Input: the text of a file. Output: one `Document` per object, plain data plus the way back from a
field to its line. Bounded in depth and in nodes *after* aliases are expanded, so that a small file
cannot become a large one. Duplicate keys and merge keys are errors. Timestamps stay text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from mesh.errors import ConfigError
from mesh.sources.fields import FieldPath

MAX_DEPTH = 64
"""The deepest object in use, a Pod with affinities, is about 15 deep."""
MAX_NODES = 200_000
"""About 4 MiB of dense YAML; etcd takes no object above 1.5 MiB."""

_MERGE = "tag:yaml.org,2002:merge"
_SCALARS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")
)


class DocumentError(ConfigError):
    """The text is no YAML that we take.

    Attributes:
        line: where, from 1 on.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.CSafeLoader):
    """The safe loader without timestamps: they are text in Kubernetes' objects."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True, slots=True)
class Document:
    """One object of a file."""

    data: object
    node: Node

    @property
    def line(self) -> int:
        """The line it starts on."""
        return _line(self.node)

    def line_of(self, path: FieldPath, *, at_key: bool = False) -> int:
        """Return the line of a field, or of its nearest ancestor that exists.

        `at_key` asks for the field's name instead of its value.
        """
        node, line = self.node, _line(self.node)
        for step in path:
            child = _child(node, step)
            if child is None:
                break
            key, node = child
            line = _line(key or node)
        scalar = isinstance(node, ScalarNode)
        return _line(node) if scalar and not at_key else line

    def items(self) -> Iterator[Document]:
        """Take a `List` apart; anything else is itself."""
        if isinstance(self.data, dict) and self.data.get("kind") == "List":
            child = _child(self.node, "items")
            values = self.data.get("items")
            if (
                child is not None
                and isinstance(child[1], SequenceNode)
                and isinstance(values, list)
            ):
                for value, node in zip(values, child[1].value, strict=True):
                    yield Document(value, node)
                return
        yield self


def load_documents(text: str) -> list[Document]:
    """Parse the documents of a file; raise `DocumentError`. Empty documents are left out."""
    try:
        _check_depth(text)
        documents: list[Document] = []
        loader = _Loader(text)
        try:
            while loader.check_node():
                node = loader.get_node()
                if node is not None:
                    data = _Builder(loader).build(node, 0)
                    if data is not None:
                        documents += Document(data, node).items()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise _translate(error, text) from error
    return documents


def _translate(error: yaml.YAMLError, text: str) -> DocumentError:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        parts = [part for part in (error.context, error.problem) if part]
        # What is missing at the end is missed after it: name the last line there is.
        last = max(text.rstrip("\n").count("\n") + 1, 1)
        line = min(mark.line + 1, last) if mark else 1
        return DocumentError(line, f"no valid YAML: {', '.join(parts)}")
    return DocumentError(1, f"no valid YAML: {str(error).splitlines()[0]}")


def _check_depth(text: str) -> None:
    """Refuse deep nesting on the event stream, before anything recurses over it."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise DocumentError(line, f"nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _child(node: Node, step: str | int) -> tuple[Node | None, Node] | None:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if isinstance(key, ScalarNode) and key.value == str(step):
                return key, value
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        return None, node.value[step]
    return None


class _Builder:
    """Turns nodes into plain data, counting every node that aliases repeat."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self._left = MAX_NODES

    def build(self, node: Node, depth: int) -> object:
        self._left -= 1
        if self._left < 0:
            raise DocumentError(_line(node), f"more than {MAX_NODES} values, aliases included")
        if depth > MAX_DEPTH:
            # Also where an alias points into itself.
            raise DocumentError(_line(node), f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, depth)
        if isinstance(node, SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.build(item, depth + 1) for item in node.value]
        if isinstance(node, ScalarNode) and node.tag in _SCALARS:
            return self._scalar(node)
        raise DocumentError(_line(node), f"tag {node.tag!r} is not allowed")

    def _scalar(self, node: ScalarNode) -> object:
        try:
            return self._loader.construct_object(node)
        except (ValueError, OverflowError) as error:
            raise DocumentError(_line(node), f"no valid value: {node.value[:80]!r}") from error

    def _mapping(self, node: MappingNode, depth: int) -> dict[str, object]:
        data: dict[str, object] = {}
        seen: set[str] = set()
        for key, value in node.value:
            if key.tag == _MERGE:
                raise DocumentError(_line(key), "merge keys (<<) are not supported")
            if not isinstance(key, ScalarNode):
                raise DocumentError(_line(key), "a key must be a plain value")
            name = str(key.value)
            if name in seen:
                raise DocumentError(_line(key), f"duplicate key {name[:80]!r}")
            seen.add(name)
            built = self.build(value, depth + 1)
            if built is not None:
                # null means absent, as in Kubernetes.
                data[name] = built
        return data
