"""The messages of `envoy.service.auth.v3.Authorization/Check`, as far as they are used.

Field numbers are those of Envoy's API (`external_auth.proto`, `attribute_context.proto`); the
descriptors are built from a table, since the whole API would be thousands of generated classes.
Names are the wire's business no more than comments are: only numbers and types count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import msgspec
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from mesh.errors import RemoteProtocolError

METHOD = b"/envoy.service.auth.v3.Authorization/Check"
Tree = Mapping[str, "Tree | Sequence[Tree] | str | bytes | int"]
"""A message by the names of its fields."""

_PACKAGE = "meshnode.ext_authz"
_KIND = FieldDescriptorProto.Type
_SCALARS = {
    "string": _KIND.TYPE_STRING,
    "bytes": _KIND.TYPE_BYTES,
    "int32": _KIND.TYPE_INT32,
    "int64": _KIND.TYPE_INT64,
    "uint32": _KIND.TYPE_UINT32,
    "bool": _KIND.TYPE_BOOL,
}
# A map<string, string> travels as repeated entries of key and value; enums travel as int32.
_TABLE: Mapping[str, tuple[tuple[str, int, str], ...]] = {
    "CheckRequest": (("attributes", 1, "AttributeContext"),),
    "AttributeContext": (
        ("source", 1, "Peer"),
        ("destination", 2, "Peer"),
        ("request", 4, "Request"),
    ),
    "Peer": (("address", 1, "Address"), ("service", 2, "string"), ("principal", 4, "string")),
    "Address": (("socket_address", 1, "SocketAddress"),),
    "SocketAddress": (("address", 2, "string"), ("port_value", 3, "uint32")),
    "Request": (("time", 1, "Timestamp"), ("http", 2, "HttpRequest")),
    "Timestamp": (("seconds", 1, "int64"), ("nanos", 2, "int32")),
    "HttpRequest": (
        ("id", 1, "string"),
        ("method", 2, "string"),
        ("headers", 3, "repeated Entry"),
        ("path", 4, "string"),
        ("host", 5, "string"),
        ("scheme", 6, "string"),
        ("size", 9, "int64"),
        ("body", 11, "string"),
        ("raw_body", 12, "bytes"),
    ),
    "Entry": (("key", 1, "string"), ("value", 2, "string")),
    "CheckResponse": (
        ("status", 1, "Status"),
        ("denied_response", 2, "DeniedHttpResponse"),
        ("ok_response", 3, "OkHttpResponse"),
        ("error_response", 5, "DeniedHttpResponse"),
    ),
    "Status": (("code", 1, "int32"), ("message", 2, "string")),
    "DeniedHttpResponse": (
        ("status", 1, "HttpStatus"),
        ("headers", 2, "repeated HeaderValueOption"),
        ("body", 3, "bytes"),
    ),
    "HttpStatus": (("code", 1, "int32"),),
    "OkHttpResponse": (
        ("headers", 2, "repeated HeaderValueOption"),
        ("headers_to_remove", 5, "repeated string"),
        ("response_headers_to_add", 6, "repeated HeaderValueOption"),
        ("query_parameters_to_set", 7, "repeated Entry"),
        ("query_parameters_to_remove", 8, "repeated string"),
    ),
    "HeaderValueOption": (
        ("header", 1, "HeaderValue"),
        ("append", 2, "BoolValue"),
        ("append_action", 3, "int32"),
    ),
    "HeaderValue": (("key", 1, "string"), ("value", 2, "string"), ("raw_value", 3, "bytes")),
    "BoolValue": (("value", 1, "bool"),),
}


class Entry(msgspec.Struct, frozen=True):
    key: str = ""
    value: str = ""


class HeaderValue(msgspec.Struct, frozen=True):
    key: str = ""
    value: str = ""
    raw_value: bytes = b""


class BoolValue(msgspec.Struct, frozen=True):
    value: bool = False


class HeaderValueOption(msgspec.Struct, frozen=True):
    header: HeaderValue = HeaderValue()
    append: BoolValue = BoolValue()
    append_action: int = 0


class Status(msgspec.Struct, frozen=True):
    code: int = 0
    message: str = ""


class HttpStatus(msgspec.Struct, frozen=True):
    code: int = 0


class DeniedHttpResponse(msgspec.Struct, frozen=True):
    status: HttpStatus = HttpStatus()
    headers: tuple[HeaderValueOption, ...] = ()
    body: bytes = b""


class OkHttpResponse(msgspec.Struct, frozen=True):
    headers: tuple[HeaderValueOption, ...] = ()
    headers_to_remove: tuple[str, ...] = ()
    response_headers_to_add: tuple[HeaderValueOption, ...] = ()
    query_parameters_to_set: tuple[Entry, ...] = ()
    query_parameters_to_remove: tuple[str, ...] = ()


class CheckResponse(msgspec.Struct, frozen=True):
    """What an authorizer answers; `None` where it left a part out."""

    status: Status = Status()
    denied_response: DeniedHttpResponse | None = None
    ok_response: OkHttpResponse | None = None
    error_response: DeniedHttpResponse | None = None


def encode_check(attributes: Tree) -> bytes:
    """Write a CheckRequest."""
    return _classes()["CheckRequest"](attributes=attributes).SerializeToString()


def decode_check(data: bytes) -> CheckResponse:
    """Read a CheckResponse. Raises `RemoteProtocolError`."""
    message = _classes()["CheckResponse"]()
    try:
        message.ParseFromString(data)
        fields = json_format.MessageToDict(message, preserving_proto_field_name=True)
        return msgspec.convert(fields, CheckResponse)
    except (DecodeError, msgspec.ValidationError, json_format.Error) as error:
        raise RemoteProtocolError(f"not a CheckResponse: {error}") from error


@cache
def _classes() -> Mapping[str, type[Message]]:
    """Built once, on the first check: a process without such a provider pays nothing."""
    file = FileDescriptorProto(name="meshnode/ext_authz.proto", package=_PACKAGE, syntax="proto3")
    file.message_type.extend(_descriptor(name, fields) for name, fields in _TABLE.items())
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _TABLE
    }


def _descriptor(name: str, fields: tuple[tuple[str, int, str], ...]) -> DescriptorProto:
    descriptor = DescriptorProto(name=name)
    for field, number, kind in fields:
        repeated, _, single = kind.rpartition(" ")
        item = descriptor.field.add(name=field, number=number)
        item.label = (
            FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
        )
        if single in _SCALARS:
            item.type = _SCALARS[single]
        else:
            item.type = _KIND.TYPE_MESSAGE
            item.type_name = f".{_PACKAGE}.{single}"
    return descriptor
