"""What wrk and h2load say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}
_RATE = re.compile(r"^Requests/sec:\s+([\d.]+)", re.MULTILINE)
_TOTAL = re.compile(r"^\s+(\d+) requests in", re.MULTILINE)
_QUANTILE = r"^\s+{}%\s+([\d.]+)(us|ms|s)$"
_BAD = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)")


def parse_wrk(text: str) -> Mapping[str, float]:
    """Requests, rate and quantiles. Raises `RuntimeError` if any request failed."""
    bad = _BAD.search(text)
    if bad is not None:
        raise RuntimeError(bad[0])
    rate, total = _RATE.search(text), _TOTAL.search(text)
    if rate is None or total is None:
        raise RuntimeError(f"wrk said: {text}")
    found = {"requests": float(total[1]), "requests_per_s": float(rate[1])}
    for percent in (50, 99):
        match = re.search(_QUANTILE.format(percent), text, re.MULTILINE)
        if match is not None:
            found[f"p{percent}_us"] = float(match[1]) * _UNITS[match[2]]
    return found


_H2_DONE = re.compile(r"^finished in .*, ([\d.]+) req/s", re.MULTILINE)
_H2_COUNTS = re.compile(
    r"^requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", re.MULTILINE
)


def parse_h2load(text: str, log: Path) -> Mapping[str, float]:
    """The same from h2load's text and its log of requests. Raises `RuntimeError`."""
    rate, counts = _H2_DONE.search(text), _H2_COUNTS.search(text)
    if rate is None or counts is None or int(counts[3]) or not int(counts[2]):
        raise RuntimeError(f"h2load said: {text}")
    times = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    log.unlink()
    if not times:
        raise RuntimeError("h2load logged no request")
    return {
        "requests": float(counts[1]),
        "requests_per_s": float(rate[1]),
        "p50_us": float(times[len(times) // 2]),
        "p99_us": float(times[int(len(times) * 0.99)]),
    }
