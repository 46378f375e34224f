"""The definitions of our kinds: what the API server takes is what the code can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import yaml

from installer.crds import definitions, schema_of
from installer.render import files, install_text
from installer.values import Given
from mesh.sources.decode import KINDS, decode
from mesh.sources.fields import FieldError
from tests.lab.objects import Json, authorization_policy, kube_object, peer_authentication

OURS = sorted(name for name, kind in KINDS.items() if "meshnode.io/v1alpha1" in kind.versions)


def test_every_kind_of_ours_has_a_definition() -> None:
    kinds = [_at(definition, "spec", "names", "kind") for definition in definitions()]
    assert sorted(map(str, kinds)) == OURS
    for definition in definitions():
        kind = KINDS[str(_at(definition, "spec", "names", "kind"))]
        assert _at(definition, "spec", "scope") == ("Namespaced" if kind.namespaced else "Cluster")


@pytest.mark.parametrize("kind", OURS)
def test_a_schema_is_structural(kind: str) -> None:
    """What the API server asks of a schema (KEP-1111 of Kubernetes, `structural schema`)."""
    for node in _nodes(schema_of(kind)):
        typed = "type" in node or "x-kubernetes-int-or-string" in node
        assert typed or "x-kubernetes-preserve-unknown-fields" in node
        assert not ("properties" in node and "additionalProperties" in node)
        assert node.get("type") != "array" or "items" in node
        assert node.get("required") != []
        if "properties" in node:
            # Nothing is cut off in silence: who reads the object refuses what it does not know.
            assert node["x-kubernetes-preserve-unknown-fields"] is True


@pytest.mark.parametrize(
    "manifest",
    [
        authorization_policy(
            "shop",
            "a",
            action="DENY",
            selector={"app": "web"},
            rules=[{"to": [{"operation": {"ports": ["8080", 9090]}}]}],
        ),
        peer_authentication("shop", "p", mode="STRICT"),
        kube_object("meshnode.io/v1alpha1", "MeshConfig", "mesh", spec={"sameNode": "encrypt"}),
        kube_object(
            "meshnode.io/v1alpha1",
            "Workload",
            "db",
            namespace="shop",
            spec={"addresses": ["10.0.0.1"], "ports": [{"name": "sql", "port": 5432}]},
        ),
    ],
    ids=lambda manifest: str(manifest["kind"]),
)
def test_what_the_code_reads_the_schema_takes(manifest: dict[str, Json]) -> None:
    decode(dict(manifest), "test")
    assert list(_faults(manifest, schema_of(str(manifest["kind"])), "")) == []


@pytest.mark.parametrize(
    ("kind", "spec", "fault"),
    [
        ("AuthorizationPolicy", {"action": "PERMIT"}, ".spec.action"),
        ("AuthorizationPolicy", {"rules": [{"from": [{}]}]}, ".spec.rules[0].from[0].source"),
        ("PeerAuthentication", {"mtls": {"mode": "ON"}}, ".spec.mtls.mode"),
        ("Workload", {"addresses": "10.0.0.1"}, ".spec.addresses"),
        ("TrafficPolicy", {"retry": {"attempts": "x"}}, ".spec.retry.attempts"),
    ],
)
def test_what_the_schema_refuses_the_code_refuses(kind: str, spec: Json, fault: str) -> None:
    manifest = kube_object("meshnode.io/v1alpha1", kind, "x", namespace="shop", spec=spec)
    assert list(_faults(manifest, schema_of(kind), "")) == [fault]
    with pytest.raises(FieldError):
        decode(dict(manifest), "test")


def test_the_files_hold_no_aliases() -> None:
    plain = [text for path, text in files().items() if path.startswith(("crds/", "rbac/"))]
    for text in (*plain, install_text(Given())):
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            assert not isinstance(event, yaml.AliasEvent)


def _at(value: object, *path: str) -> object:
    for step in path:
        assert isinstance(value, Mapping)
        value = value[step]
    return value


def _nodes(schema: object) -> Iterator[Mapping[str, object]]:
    assert isinstance(schema, Mapping)
    yield schema
    properties = schema.get("properties", {})
    assert isinstance(properties, Mapping)
    for child in (*properties.values(), schema.get("items"), schema.get("additionalProperties")):
        if child is not None:
            yield from _nodes(child)


_TYPES: Mapping[object, type | tuple[type, ...]] = {
    "object": Mapping,
    "array": (list, tuple),
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def _faults(value: object, schema: object, at: str) -> Iterator[str]:
    """Paths of what a schema does not take: types, enumerations, required fields."""
    assert isinstance(schema, Mapping)
    if schema.get("x-kubernetes-int-or-string"):
        fits = isinstance(value, (int, str))
    else:
        fits = "type" not in schema or isinstance(value, _TYPES[schema["type"]])
    choices = schema.get("enum")
    if not fits or (isinstance(choices, list) and value not in choices):
        yield at
        return
    if isinstance(value, Mapping):
        required = schema.get("required", [])
        assert isinstance(required, list)
        yield from (f"{at}.{name}" for name in required if name not in value)
        properties = schema.get("properties", {})
        assert isinstance(properties, Mapping)
        for name, item in value.items():
            yield from _faults(item, properties.get(name, {}), f"{at}.{name}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _faults(item, schema.get("items", {}), f"{at}[{number}]")
