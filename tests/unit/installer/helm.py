"""The chart rendered: by Helm where it is installed, else by the few forms that our chart uses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import yaml

NAMESPACE = "meshnode-system"
_WHOLE = re.compile(r"\A\{\{- if (\.Values\.[A-Za-z.]+) \}\}\n(.*)\{\{- end \}\}\n\Z", re.DOTALL)
_EXPRESSION = re.compile(r"\{\{ (.*?) \}\}")


def has_helm() -> bool:
    return shutil.which("helm") is not None


def by_helm(chart: Path, *options: str) -> list[object]:
    """What `helm template` makes."""
    command = ["helm", "template", "meshnode", str(chart), "--namespace", NAMESPACE]
    command += ["--kube-version", "1.31.0", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return [one for one in yaml.safe_load_all(done.stdout) if one is not None]


def by_hand(chart: Path, values: Mapping[str, object]) -> list[object]:
    """The same for the three forms of Helm's language that the chart keeps to."""
    made: list[object] = []
    for path in sorted((chart / "templates").glob("*.yaml")):
        text = path.read_text()
        condition = _WHOLE.match(text)
        if condition is not None:
            if not _lookup(condition[1], values):
                continue
            text = condition[2]
        filled = _EXPRESSION.sub(lambda found: _evaluate(found[1], values), text)
        made += list(yaml.safe_load_all(filled))
    return made


def _evaluate(expression: str, values: Mapping[str, object]) -> str:
    if expression == '"{{"':
        return "{{"
    if expression == 'toJson (toJson (omit .Values "global"))':
        return _json(_json(values))
    function, _, reference = expression.rpartition(" ")
    found = _lookup(reference, values)
    if function == "toJson":
        return _json(found)
    assert not function, f"the chart uses {expression}, which is not one of its forms"
    return str(found).lower() if isinstance(found, bool) else str(found)


def _lookup(reference: str, values: Mapping[str, object]) -> object:
    if reference == ".Release.Namespace":
        return NAMESPACE
    found: object = values
    for step in reference.removeprefix(".Values.").split("."):
        assert isinstance(found, Mapping), reference
        found = found[step]
    return found


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
