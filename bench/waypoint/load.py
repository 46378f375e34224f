"""What is asked of `bench/tools/http_load.c`, and what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLoad:
    """Requests to one path.

    Attributes:
        streams: at a time on each connection.
        rate: requests per second, each at its instant; 0: as fast as they are answered.
        body: bytes of each request's.
        message: bytes of each message of endless streams.
    """

    path: str
    connections: int
    http2: bool = False
    streams: int = 1
    rate: int = 0
    body: int = 0
    message: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    def argv(self, host: str, port: int, warm_s: float, seconds: float) -> Sequence[str]:
        """Arguments of the load generator."""
        numbers = {
            "-c": self.connections,
            "-m": self.streams,
            "-r": self.rate,
            "-b": self.body,
            "-p": self.message,
            "-w": warm_s,
            "-s": seconds,
        }
        options = [text for name, value in numbers.items() for text in (name, str(value))]
        fields = [text for pair in self.headers.items() for text in pair]
        version = ["-2"] if self.http2 else []
        return [*version, *options, host, str(port), self.path, *fields]


def parse_said(text: str) -> Mapping[str, float]:
    """Answers in all, rate and quantiles of those that count."""
    said: Mapping[str, float] = json.loads(text)
    return {
        "answered": said["answered"],
        "requests_per_s": said["per_s"],
        "p50_us": said["p50_us"],
        "p99_us": said["p99_us"],
    }
