"""docs/traffic-policy.md knows every field of the object, and its examples are accepted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from mesh.model.traffic import Algorithm, Locality, RateLimitKey, RetryOn
from mesh.sources.traffic_schema import TrafficPolicySpec
from tests.unit.mesh.routing import build

TEXT = (Path(__file__).parents[4] / "docs" / "traffic-policy.md").read_text()


def structs(kind: object) -> Iterator[type[msgspec.Struct]]:
    """The structs in a type."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
    for part in get_args(kind):
        yield from structs(part)


def field_names(kind: type[msgspec.Struct]) -> Iterator[str]:
    """Names as in YAML, of all levels."""
    for field in msgspec.structs.fields(kind):
        yield field.encode_name
        for inner in structs(field.type):
            yield from field_names(inner)


@pytest.mark.parametrize("name", sorted(set(field_names(TrafficPolicySpec))))
def test_every_field_is_explained(name: str) -> None:
    assert re.search(rf"[`.]{name}[`:.]|## .*\b{name}\b", TEXT)


@pytest.mark.parametrize(
    "value", [*Algorithm, *(item for item in Locality), *RateLimitKey, *RetryOn]
)
def test_every_choice_is_explained(value: str) -> None:
    assert f"`{value}`" in TEXT


def test_the_example_is_accepted() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    snapshot = build.read(example)
    assert snapshot.problems == ()
    assert len(snapshot.traffic_policies) == 1
