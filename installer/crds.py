"""CustomResourceDefinitions of our kinds, from the schemas that read them.

The structure comes from `mesh.sources`; only what one field asks of another is written here, as
CEL rules. Unknown fields are kept by the API server instead of being cut off without a word: a
misspelt field of a policy is then refused by whoever reads it, and shown, where a policy without
that field would mean something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from msgspec import inspect

from mesh.sources.decode import KINDS
from mesh.sources.kubernetes.resources import RESOURCES, Resource

Schema: TypeAlias = "dict[str, object]"
Manifest: TypeAlias = "dict[str, object]"

GROUP = "meshnode.io"
_KEEP = "x-kubernetes-preserve-unknown-fields"

_ONE_SCOPE = (
    "!(has(self.selector) && (has(self.targetRef) || has(self.targetRefs)))",
    "a policy has a selector or targets, not both",
)
_RULES: Mapping[str, Sequence[tuple[str, str]]] = {
    "AuthorizationPolicy": (
        _ONE_SCOPE,
        (
            "(has(self.action) && self.action == 'CUSTOM') == has(self.provider)",
            "action CUSTOM needs a provider, and a provider goes with CUSTOM only",
        ),
    ),
    "MeshConfig": (
        (
            "!has(self.sameNode) || self.sameNode in ['direct', 'encrypt']",
            "sameNode is direct or encrypt",
        ),
        (
            "!has(self.trustDomain) || self.trustDomain.matches('^[a-z0-9._-]{1,255}$')",
            "a trust domain is made of lower-case letters, digits, '.', '-' and '_'",
        ),
    ),
    "PeerAuthentication": (
        (
            "!has(self.portLevelMtls) || (has(self.selector) && has(self.selector.matchLabels)"
            " && size(self.selector.matchLabels) > 0)",
            "port modes need a selector",
        ),
    ),
    "RequestAuthentication": (_ONE_SCOPE,),
    "TrafficPolicy": (
        (
            "has(self.selector) != (has(self.targetRefs) && size(self.targetRefs) > 0)",
            "a policy needs a target or a selector, not both",
        ),
    ),
    "Workload": (("size(self.addresses) > 0", "a workload needs an address"),),
}
_SHORT: Mapping[str, Sequence[str]] = {
    "AuthorizationPolicy": ("mnap",),
    "PeerAuthentication": ("mnpa",),
    "RequestAuthentication": ("mnra",),
    "TrafficPolicy": ("mntp",),
}


def definitions() -> list[Manifest]:
    """All definitions, in the order in which they are read."""
    return [_definition(resource) for resource in RESOURCES if resource.group == GROUP]


def _definition(resource: Resource) -> Manifest:
    kind = KINDS[resource.kind]
    names: Manifest = {
        "kind": resource.kind,
        "listKind": f"{resource.kind}List",
        "plural": resource.plural,
        "singular": resource.kind.lower(),
        "categories": ["meshnode"],
    }
    if resource.kind in _SHORT:
        names["shortNames"] = list(_SHORT[resource.kind])
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": resource.name, "labels": {"app.kubernetes.io/part-of": "meshnode"}},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": names,
            "versions": [_version(version, resource.kind) for version in resource.versions],
        },
    }


def _version(version: str, kind: str) -> Manifest:
    age = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
    return {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema_of(kind)},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [age],
    }


def schema_of(kind: str) -> Schema:
    """The OpenAPI schema of a kind. Raises `TypeError` for a type that has none."""
    info = inspect.type_info(KINDS[kind].schema)
    if not isinstance(info, inspect.StructType):
        raise TypeError(f"{kind} is read by no struct")
    fields = {field.encode_name: field for field in info.fields}
    spec = _schema(fields["spec"].type)
    rules = _RULES.get(kind, ())
    if rules:
        spec["x-kubernetes-validations"] = [
            {"rule": rule, "message": message} for rule, message in rules
        ]
    made: Schema = {
        "type": "object",
        # Also here: a policy whose `spec` is misspelt must not pass for one without any.
        _KEEP: True,
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": {"type": "object", _KEEP: True},
        },
    }
    return {**made, "required": ["spec"]} if fields["spec"].required else made


def _schema(info: inspect.Type) -> Schema:
    match info:
        case inspect.StrType():
            return {"type": "string"}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType():
            return {"type": "integer", "format": "int64"}
        case inspect.FloatType():
            return {"type": "number"}
        case inspect.EnumType():
            return {"type": "string", "enum": [str(member.value) for member in info.cls]}
        case inspect.VarTupleType() | inspect.ListType():
            return {"type": "array", "items": _schema(info.item_type)}
        case inspect.DictType():
            return {"type": "object", "additionalProperties": _schema(info.value_type)}
        case inspect.StructType():
            return _object(info)
        case inspect.UnionType():
            return _union(info)
        case inspect.AnyType() | inspect.CustomType():
            return {_KEEP: True}
        case _:
            raise TypeError(f"no OpenAPI schema for {info}")


def _object(info: inspect.StructType) -> Schema:
    made: Schema = {
        "type": "object",
        _KEEP: True,
        "properties": {field.encode_name: _schema(field.type) for field in info.fields},
    }
    required = [field.encode_name for field in info.fields if field.required]
    return {**made, "required": required} if required else made


def _union(info: inspect.UnionType) -> Schema:
    """An optional value is its type; a number or text has a type of Kubernetes' own."""
    types = [item for item in info.types if not isinstance(item, inspect.NoneType)]
    if len(types) == 1:
        return _schema(types[0])
    if {type(item) for item in types} == {inspect.IntType, inspect.StrType}:
        return {"x-kubernetes-int-or-string": True}
    raise TypeError(f"no OpenAPI schema for {info}")
