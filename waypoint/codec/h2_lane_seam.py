"""The lane for HTTP/2 as its connections see it: `waypoint.lane.h2_lane` is the one there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mesh.http2.contract import HeadersReceived, LaneRequest, RequestReturned
from waypoint.contract import RequestSink

if TYPE_CHECKING:
    from waypoint.codec.h2_client import Http2Client
    from waypoint.codec.h2_link import Http2Link
    from waypoint.codec.h2_server import Http2Server, ServerStream


class SessionLane(Protocol):
    """Moves requests between sessions without asking their connections."""

    def enter(self, link: Http2Link) -> None:
        """Let a client's connection in."""

    def leave(self, link: Http2Link) -> None:
        """A connection is lost."""

    def retire(self, link: Http2Client) -> None:
        """Give a server's connection no new requests."""

    def flush_soon(self) -> None:
        """Send what sessions have, at the end of this turn of the loop."""

    def flushed(self, link: Http2Link) -> None:
        """A connection's output was taken, which may have given credit to others."""

    def learn(self, link: Http2Server, event: HeadersReceived, exchange: RequestSink) -> None:
        """Remember what was decided of a request, if it is steady and plain."""

    def resume(self, link: Http2Server, stream: ServerStream, event: RequestReturned) -> None:
        """Go on with a request, whose first try has failed or is over by policy."""

    def told(self, link: Http2Server, request: LaneRequest) -> None:
        """Count and log a request that has ended."""

    def cut_stream(self, link: Http2Server, stream: int) -> bool:
        """End a request whose client takes nothing of its answer; False: it is none of ours."""

    def cut_streams(self, link: Http2Server) -> None:
        """The same of all requests of a client."""

    def recall_silent(self, link: Http2Server, now: float, limit_s: float) -> None:
        """Have requests back that their client does not go on with, to be refused."""
