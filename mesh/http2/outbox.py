"""What waits to be sent on one stream, for the portable engine."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from mesh.http2.contract import Headers


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

    @property
    def has_output(self) -> bool:
        return bool(self.queue) or (self.end and not self.end_sent)


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
