"""Several tries of one request at a time: the first good response wins, the others are cancelled.

Only for requests that may be repeated and whose body, if any, is here as a whole. To the exchange a
race looks like one stream; once a runner has won, it is nothing but that runner's stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from mesh.errors import LocalProtocolError
from mesh.http1.message import Headers, ResponseHead
from mesh.model.request import RequestFlag
from mesh.resilience.cluster import Lease
from mesh.resilience.outlier import Outcome, outcome_of
from waypoint.contract import Failure, UpstreamStream
from waypoint.upstream.target import Target

if TYPE_CHECKING:
    from waypoint.upstream.pending import Pending, Taker


class Entrant(Protocol):
    """The exchange whose request runs."""

    def connected(self, stream: UpstreamStream) -> None: ...
    def feed(self, stream: UpstreamStream) -> None: ...
    def informed(self, head: ResponseHead) -> None: ...
    def responded(self, head: ResponseHead) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def response_end(self, trailers: Headers) -> None: ...
    def flush_response(self) -> None: ...
    def flush_request(self) -> None: ...
    def upstream_failed(self, failure: Failure) -> None: ...
    def upstream_blocked(self, blocked: bool) -> None: ...
    def unsendable(self, error: LocalProtocolError) -> None: ...


class Course(Protocol):
    """Where runners come from, and who hears of the winner; the passage."""

    def now(self) -> float: ...
    def start_runner(self, lease: Lease[Target], runner: Taker) -> Pending | None:
        """Send the request on behalf of a runner."""

    def hedge(self) -> Lease[Target] | None:
        """An endpoint for one more runner; None if there shall be none."""

    def won(self, lease: Lease[Target]) -> None: ...


class _Runner:
    """One try; `waypoint.upstream.pending.Taker` for the pool."""

    __slots__ = ("lease", "pending", "race", "stream")

    def __init__(self, race: Race, lease: Lease[Target]) -> None:
        self.race = race
        self.lease = lease
        self.stream: UpstreamStream | None = None
        self.pending: Pending | None = None

    def connected(self, stream: UpstreamStream) -> None:
        self.pending = None
        self.stream = stream
        self.race.joined(self)

    def flush_request(self) -> None:
        if self.stream is not None:
            self.stream.flush()

    def unsendable(self, error: LocalProtocolError) -> None:
        self.race.entrant.unsendable(error)

    def informed(self, head: ResponseHead) -> None:
        if self.race.is_last(self):
            self.race.entrant.informed(head)

    def responded(self, head: ResponseHead) -> None:
        self.race.responded(self, head)

    def response_body(self, data: bytes) -> None:
        self.race.entrant.response_body(data)

    def response_end(self, trailers: Headers) -> None:
        self.race.entrant.response_end(trailers)

    def flush_response(self) -> None:
        self.race.entrant.flush_response()

    def upstream_failed(self, failure: Failure) -> None:
        self.pending = self.stream = None
        self.race.failed(self, failure)

    def upstream_blocked(self, blocked: bool) -> None:
        if self.race.is_last(self):
            self.race.entrant.upstream_blocked(blocked)

    def drop(self, now: float) -> None:
        """Give up, and let go of the endpoint."""
        if self.pending is not None:
            self.pending.cancel()
            self.pending = None
        if self.stream is not None:
            stream, self.stream = self.stream, None
            stream.cancel()
        self.lease.release(now)


class Race:
    """`UpstreamStream` for the exchange."""

    def __init__(self, entrant: Entrant, course: Course) -> None:
        self.entrant = entrant
        self._course = course
        self._runners: list[_Runner] = []
        self._entered = self._over = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_pending(self) -> bool:
        """Whether no runner has a connection yet."""
        return not self._entered and not self._over

    def begin(
        self,
        lease: Lease[Target],
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
        after_s: float,
        attempts: int,
    ) -> None:
        """Start the first runner; others follow every `after_s`, while nobody has answered."""

        def later(left: int) -> None:
            def fire() -> None:
                self._timer = None
                another = self._course.hedge()
                if another is not None:
                    self._run(another)
                if left > 1 and not self._over:
                    later(left - 1)

            self._timer = call_later(after_s, fire)

        later(attempts)
        self._run(lease)

    def _run(self, lease: Lease[Target]) -> None:
        runner = _Runner(self, lease)
        self._runners.append(runner)
        pending = self._course.start_runner(lease, runner)
        if pending is not None and runner in self._runners:
            runner.pending = pending

    def is_last(self, runner: _Runner) -> bool:
        """Whether there is no other."""
        return self._runners == [runner]

    def joined(self, runner: _Runner) -> None:
        """A runner has its connection."""
        if self._entered:
            self.entrant.feed(runner.stream or self)
            runner.flush_request()
            return
        self._entered = True
        self.entrant.connected(self)

    def responded(self, runner: _Runner, head: ResponseHead) -> None:
        """The first good response wins; a bad one only if nobody else runs."""
        bad = outcome_of(head.status) is not Outcome.OK
        if bad and not self.is_last(runner):
            runner.lease.judge(outcome_of(head.status), self._course.now())
            self._leave(runner)
            return
        for other in self._runners:
            if other is not runner:
                other.drop(self._course.now())
        self._runners = [runner]
        self._stop()
        self._course.won(runner.lease)
        self.entrant.responded(head)

    def failed(self, runner: _Runner, failure: Failure) -> None:
        """A runner is out; the last one's failure is everybody's."""
        if runner not in self._runners:
            return
        if not self.is_last(runner):
            if failure.flag is not RequestFlag.UPSTREAM_OVERFLOW:
                runner.lease.judge(Outcome.LOCAL_FAILURE, self._course.now())
            self._leave(runner)
            return
        self._runners = []
        self._stop()
        self._course.won(runner.lease)
        self.entrant.upstream_failed(failure)

    def _leave(self, runner: _Runner) -> None:
        self._runners.remove(runner)
        runner.drop(self._course.now())

    def _stop(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- UpstreamStream -------------------------------------------------------------------------

    def _streams(self) -> list[UpstreamStream]:
        return [runner.stream for runner in self._runners if runner.stream is not None]

    def send_body(self, data: bytes) -> None:
        for stream in self._streams():
            stream.send_body(data)

    def send_end(self, trailers: Headers) -> None:
        for stream in self._streams():
            stream.send_end(trailers)

    def flush(self) -> None:
        for stream in self._streams():
            stream.flush()

    def cancel(self) -> None:
        self._stop()
        runners, self._runners = self._runners, []
        for runner in runners:
            runner.drop(self._course.now())

    def pause_reading(self) -> None:
        for stream in self._streams():
            stream.pause_reading()

    def resume_reading(self) -> None:
        for stream in self._streams():
            stream.resume_reading()
