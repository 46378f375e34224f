"""What waits to be sent on one stream, for the portable engine."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from mesh.http2.contract import Headers

_SHARED_TURN = 65536
"""A stream alone sends frames as large as the peer takes; next to others, no more per turn."""
_MIN_TURN = 4096


@dataclass(slots=True)
class StreamState:
    """One stream that is not closed in both directions."""

    queue: deque[memoryview] = field(default_factory=deque)
    unsent: int = 0
    end: bool = False
    end_sent: bool = False
    remote_ended: bool = False
    answered: bool = False
    trailers: Headers | None = None
    stop: bool = False
    """The rest of what the peer sends is not wanted, once all of ours is out."""

    @property
    def has_output(self) -> bool:
        return bool(self.queue) or (self.end and not self.end_sent)


def turn_bytes(room: int, most: int, unsent: int, *, alone: bool) -> int:
    """How much of a stream goes out in its turn: what fits, is allowed and is there."""
    if not alone:
        room = min(room, _SHARED_TURN)
    return min(max(room, _MIN_TURN), max(most, 0), unsent)


def take_bytes(queue: deque[memoryview], size: int) -> bytes:
    """The first `size` bytes of the queue, in one piece."""
    parts: list[memoryview] = []
    while size:
        head = queue.popleft()
        if len(head) > size:
            queue.appendleft(head[size:])
            head = head[:size]
        parts.append(head)
        size -= len(head)
    return b"".join(parts)
