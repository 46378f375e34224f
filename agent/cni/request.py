"""What the plugin asks: the CNI environment and configuration as typed values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from mesh.errors import MeshnodeError
from mesh.model.address import IPAddress, parse_ip

MAX_REQUEST_BYTES = 2 << 20
_FIELDS = 5


class Command(StrEnum):
    """`CNI_COMMAND`, as far as the agent is asked."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    STATUS = "STATUS"


class Code(IntEnum):
    """Codes of the CNI specification, section "Error"."""

    INVALID_ENVIRONMENT = 4
    DECODE = 6
    INVALID_CONFIG = 7
    TRY_LATER = 11


class CniError(MeshnodeError):
    """Why the agent does not agree."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """One pod's network as the runtime has just made it.

    Attributes:
        uid: the pod's `metadata.uid`; empty where the runtime does not say.
        netns: path on the host.
        addresses: of `prevResult`.
    """

    namespace: str
    name: str
    uid: str
    container: str
    netns: str
    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of the plugin. `sandbox` is None where no pod of Kubernetes is meant."""

    command: Command
    sandbox: Sandbox | None


def parse_request(data: bytes) -> Request:
    """Parse what the plugin sent. Raises `CniError`."""
    parts = data.split(b"\0", _FIELDS)
    if len(parts) != _FIELDS + 1:
        raise CniError(Code.DECODE, "the plugin and the agent do not fit: install them anew")
    try:
        command, container, netns, _, arguments = (part.decode() for part in parts[:_FIELDS])
        known = Command(command)
    except ValueError as error:
        raise CniError(Code.INVALID_ENVIRONMENT, f"unreadable environment: {error}") from error
    pod = dict(item.partition("=")[::2] for item in arguments.split(";"))
    if known is Command.STATUS or not pod.get("K8S_POD_NAME"):
        return Request(command=known, sandbox=None)
    sandbox = Sandbox(
        namespace=pod.get("K8S_POD_NAMESPACE", ""),
        name=pod["K8S_POD_NAME"],
        uid=pod.get("K8S_POD_UID", ""),
        container=container,
        netns=netns,
        addresses=_addresses(parts[_FIELDS]) if known is Command.ADD else (),
    )
    if known is Command.ADD and not netns:
        raise CniError(Code.INVALID_ENVIRONMENT, "CNI_NETNS is empty")
    return Request(command=known, sandbox=sandbox)


def _addresses(config: bytes) -> tuple[IPAddress, ...]:
    """`prevResult.ips[].address`, written as 10.0.0.2/24. Raises `CniError`."""
    try:
        tree = json.loads(config)
        result = tree.get("prevResult") if isinstance(tree, Mapping) else None
        ips = result.get("ips", []) if isinstance(result, Mapping) else []
        return tuple(parse_ip(str(ip["address"]).partition("/")[0]) for ip in ips)
    except (ValueError, KeyError, TypeError, MeshnodeError) as error:
        raise CniError(Code.INVALID_CONFIG, f"prevResult cannot be read: {error}") from error
