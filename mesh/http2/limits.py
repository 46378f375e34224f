"""Limits against hostile HTTP/2 peers, for the portable engine. `flood.h` holds the same ones.

Counts instead of rates, because there is no clock here: what a peer may do for nothing is bounded,
and useful work earns more of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.errors import RemoteProtocolError

MAX_CONTINUATIONS = 16
"""A header list of 64 KiB needs five frames of the smallest kind. RFC 9113 §10.5 names the
flood."""

MAX_BAD_ENDS = 100
"""Rapid reset (CVE-2023-44487), and streams that we must reset (CVE-2025-8671): streams that ended
badly before an answer, less those that were answered. A peer may cancel all its pending streams at
once, so its allowance of concurrent streams comes on top."""

MAX_IDLE_FRAMES = 1000
"""Empty DATA, PRIORITY, unknown frames, 1xx, SETTINGS and GOAWAY again: cost us more than the peer
(CVE-2019-9515, CVE-2019-9518)."""

IDLE_CREDIT = 16

MAX_ANSWER_BYTES = 65536
"""Answers to PING, SETTINGS and bad frames that a peer lets pile up unread (CVE-2019-9512)."""


class TooMuchError(RemoteProtocolError):
    """The peer exceeded a limit: ENHANCE_YOUR_CALM (RFC 9113 §7)."""


@dataclass(slots=True, kw_only=True)
class Allowance:
    """What one peer may still do for nothing."""

    max_concurrent_streams: int
    bad_ends: int = 0
    idle_frames: int = 0
    answer_bytes: int = 0
    continuations: int = 0

    def bad_end(self) -> None:
        """A stream ended badly before it was answered, or by a fault of the peer."""
        self.bad_ends += 1
        if self.bad_ends > MAX_BAD_ENDS + self.max_concurrent_streams:
            raise TooMuchError("HTTP/2: too many streams reset")

    def answered_stream_ended(self) -> None:
        self.bad_ends = max(0, self.bad_ends - 1)

    def idle_frame(self) -> None:
        self.idle_frames += 1
        if self.idle_frames > MAX_IDLE_FRAMES:
            raise TooMuchError("HTTP/2: too many frames that carry nothing")

    def useful_frame(self) -> None:
        self.idle_frames = max(0, self.idle_frames - IDLE_CREDIT)

    def continuation(self) -> None:
        self.continuations += 1
        if self.continuations > MAX_CONTINUATIONS:
            raise TooMuchError("HTTP/2: too many CONTINUATION frames")

    def answered(self, answer_bytes: int) -> None:
        """Bytes that a `receive()` made us say."""
        self.answer_bytes += answer_bytes
        if self.answer_bytes > MAX_ANSWER_BYTES:
            raise TooMuchError("HTTP/2: the peer does not read our answers")

    def output_taken(self) -> None:
        self.answer_bytes = 0
