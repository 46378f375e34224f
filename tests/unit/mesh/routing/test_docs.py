"""The objects that the documentation shows can be used as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.mesh.routing import build

DOCUMENT = Path(__file__).parents[4] / "docs" / "routing.md"


def test_every_example_reads_without_a_problem() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    snapshot = build.read("---\n".join(examples))
    assert snapshot.problems == ()
    assert (len(snapshot.routes), len(snapshot.traffic_policies)) == (1, 1)
