"""Every example of the documentation is an object that a real API server takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.kube.real.cluster import Cluster

ROOT = Path(__file__).resolve().parents[3]
_BLOCK = re.compile(r"^( *)```yaml\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def manifests() -> Iterator[tuple[str, dict[str, object]]]:
    """Place and object of every manifest in a document."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        for number, found in enumerate(_BLOCK.finditer(path.read_text())):
            text = re.sub(rf"^{found[1]}", "", found[2], flags=re.MULTILINE)
            for item in yaml.safe_load_all(text):
                if isinstance(item, dict) and "kind" in item and "apiVersion" in item:
                    yield f"{path.relative_to(ROOT)}-{number}-{item['kind']}", item


EXAMPLES = list(manifests())


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 15


@pytest.mark.parametrize(
    "item", [pytest.param(item, id=place) for place, item in EXAMPLES], scope="session"
)
def test_the_server_takes_it(cluster: Cluster, item: dict[str, object]) -> None:
    metadata = item["metadata"]
    assert isinstance(metadata, dict)
    namespace = metadata.get("namespace")
    if isinstance(namespace, str):
        cluster.namespace(namespace)
    metadata.setdefault("namespace", "default")
    text = yaml.safe_dump(item)
    # Fields that nobody knows are refused here; a person who applies it would be warned.
    options = ("--dry-run=server", "--validate=strict", "-f", "-")
    said = cluster.kubectl("apply", *options, stdin=text)
    assert "Warning" not in said.stderr
