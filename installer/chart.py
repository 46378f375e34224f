"""The Helm chart, of the same manifests as `meshnode install` renders."""

from __future__ import annotations

import json
from collections.abc import Mapping

import yaml

from installer import cluster
from installer.settings import SETTINGS, defaults, schema, tree_of
from installer.text import to_yaml
from installer.values import Templated

_NOTES = """\
meshnode is installed in {{ .Release.Namespace }}.

  kubectl -n {{ .Release.Namespace }} rollout status daemonset/meshnode-agent
  kubectl label namespace YOURS meshnode.io/dataplane=enabled

Before `helm uninstall`, take the pods out: `meshnode uninstall --cluster`.
"""


def chart_files() -> Mapping[str, str]:
    """Path inside the chart, and text."""
    made = {
        "Chart.yaml": _chart(),
        "values.yaml": _values(),
        "values.schema.json": json.dumps(schema(), indent=2) + "\n",
        "templates/NOTES.txt": _NOTES,
        ".helmignore": "*.orig\n",
    }
    templated = Templated()
    for file in cluster.files(templated):
        text = templated.fill(to_yaml(file.manifests))
        if file.when:
            text = f"{{{{- if .Values.{file.when} }}}}\n{text}{{{{- end }}}}\n"
        made[f"templates/{file.name}.yaml"] = text
    return made


def _chart() -> str:
    release = str(defaults()["image.tag"])
    return yaml.safe_dump(
        {
            "apiVersion": "v2",
            "name": "meshnode",
            "description": "A service mesh without sidecars",
            "type": "application",
            "version": release,
            "appVersion": release,
            "kubeVersion": ">=1.30.0-0",
            "keywords": ["service mesh", "ebpf", "mtls"],
        },
        sort_keys=False,
    )


def _values() -> str:
    """Defaults with the meaning of each as a comment."""
    lines: list[str] = []
    section: tuple[str, ...] = ()
    for setting in SETTINGS:
        above = setting.path[:-1]
        if above != section:
            lines += ["", *(f"{'  ' * depth}{name}:" for depth, name in enumerate(above))]
            section = above
        indent = "  " * len(above)
        leaf = yaml.safe_dump(tree_of({setting.path[-1]: setting.default}), sort_keys=False)
        lines.append(f"{indent}# {setting.meaning}")
        lines += [f"{indent}{line}" for line in leaf.splitlines()]
    return "\n".join(lines).lstrip() + "\n"
