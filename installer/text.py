"""Manifests as YAML text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml


class _Dumper(yaml.SafeDumper):
    """Writes equal parts out: Kubernetes' readers do not all know YAML's aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def to_yaml(manifests: Sequence[Mapping[str, object]]) -> str:
    """Documents with a separator before each but the first."""
    return yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=100)


def of_tuples(value: object) -> object:
    """Sequences as lists, which is all that YAML and JSON know."""
    if isinstance(value, Mapping):
        return {key: of_tuples(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [of_tuples(item) for item in value]
    return value
