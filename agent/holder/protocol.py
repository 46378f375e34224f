"""What the holder and its clients say to each other: one JSON object per packet.

Requests carry an `id` that the answer repeats. Packets that hand over descriptors name them in
the same order. `codec` parses everything received into these frozen values; nothing inside
validates.

A channel starts in the node role. `Become(WORKER)` reduces it for good; the descriptor can then
be given to a process without privilege.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TypeAlias

from mesh.errors import MeshnodeError

PROTOCOL_VERSION = 1
"""A holder outlives upgrades of the agent: raised by a change that the other side must know."""

MAX_REQUEST_BYTES = 8 * 1024
MAX_ANSWER_BYTES = 128 * 1024
"""Below the default send buffer (208 KiB): a SOCK_SEQPACKET packet must fit into it whole."""

MAX_VEND = 32
MAX_FDS = 32
"""Most descriptors in one packet; the kernel's own limit is 253 (SCM_MAX_FD)."""

LIST_PAGE = 200
"""Pods per `ListPods` answer: at most 253 + ~150 bytes each."""


class HolderError(MeshnodeError):
    """The holder refused a request; its text says why."""


class HolderLostError(HolderError):
    """The holder is not running, or the channel to it ended."""


class Role(StrEnum):
    """What a channel may ask for."""

    NODE = "node"
    WORKER = "worker"


class Family(IntEnum):
    """Address family of a vended socket."""

    V4 = 4
    V6 = 6


class SocketKind(StrEnum):
    """What a vended socket is for."""

    OUTBOUND = "outbound"
    """ztunnel dials away from the pod."""
    INBOUND = "inbound"
    """ztunnel dials the pod's application under the client's address."""


class ListenerName(StrEnum):
    """The listeners of one pod."""

    OUTBOUND4 = "outbound4"
    OUTBOUND6 = "outbound6"
    """Missing where the pod's namespace has no IPv6."""
    PLAINTEXT = "plaintext"
    HBONE = "hbone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """Answer: the holder's process id and protocol version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Become:
    """Reduce this channel to a role. Irrevocable."""

    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Make a pod's listeners. Descriptors: the namespace. Answer: the pod, with its listeners."""

    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """Take over listeners that outlived another holder; missing ones are made.

    Descriptors: the namespace, then the listeners in the order of `listeners`.
    """

    uid: str
    listeners: tuple[ListenerName, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Close a pod's listeners. Not an error if there are none."""

    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPods:
    """Name the pods with uid above `after`, without descriptors, at most `LIST_PAGE`."""

    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """Hand out copies of one pod's listeners."""

    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vend:
    """Make fresh sockets in a pod's namespace. Answer: `count` descriptors, or an error."""

    uid: str
    family: Family
    kind: SocketKind
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Report all pods with their listeners, then `SYNCED`, then every change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """A packet that is no request; `complaint` says what is wrong with it."""

    complaint: str


Request: TypeAlias = Ping | Become | Open | Adopt | Close | ListPods | Listeners | Vend | Watch

WORKER_MAY = (Listeners, Vend, Watch, Ping)
"""Requests a worker channel is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRecord:
    """One pod the holder serves.

    Attributes:
        cookie: the netns cookie of its namespace.
        listeners: what it has; descriptors that come along are in this order.
    """

    uid: str
    cookie: int
    listeners: tuple[ListenerName, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer to the request `id`; failed if `error` says something.

    Attributes:
        pid: process id of the holder (`Ping`).
        version: the protocol it speaks (`Ping`).
        more: `ListPods` has another page.
    """

    id: int
    error: str = ""
    pods: tuple[PodRecord, ...] = ()
    pid: int = 0
    version: int = 0
    more: bool = False


class EventKind(StrEnum):
    """What a watching channel is told."""

    OPENED = "opened"
    """Descriptors: the pod's listeners. Also sent when a pod got another namespace."""
    CLOSED = "closed"
    SYNCED = "synced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A report on a watching channel; `pod` is None for `SYNCED`."""

    kind: EventKind
    pod: PodRecord | None = None
