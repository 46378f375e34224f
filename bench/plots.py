"""Grouped bars as SVG, in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.model import METRICS, Measured, Peer
from bench.stats import Summary

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 10, 52, 40
COLOURS = {
    Peer.OURS: "#1565c0",
    Peer.NO_MESH: "#9e9e9e",
    Peer.ENVOY_TLS: "#f4b183",
    Peer.ENVOY_HBONE: "#d9531e",
    Peer.HAPROXY_TLS: "#8e6bbf",
    Peer.ENVOY: "#d9531e",
    Peer.NGINX: "#5a9e5a",
    Peer.HAPROXY: "#8e6bbf",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One picture: a metric of several scenarios.

    Attributes:
        groups: scenario and the label below its bars.
    """

    file: str
    title: str
    metric: str
    groups: Sequence[tuple[str, str]]


def _sizes(route: str) -> list[tuple[str, str]]:
    labels = {1: "1 B", 128: "128 B", 1024: "1 KiB", 16384: "16 KiB", 65536: "64 KiB"}
    return [(f"{route}/rtt/{size}B", label) for size, label in labels.items()]


def _streams(route: str) -> list[tuple[str, str]]:
    return [(f"{route}/throughput/{n}", f"{n} stream{'s' * (n > 1)}") for n in (1, 8, 64)]


_WAYPOINT = (
    ("waypoint/http1/32-connections", "HTTP/1.1"),
    ("waypoint/http2/32-connections", "HTTP/2"),
    ("waypoint/grpc/unary", "gRPC"),
    ("waypoint/grpc/streaming", "gRPC messages"),
    ("waypoint-hbone/http1/32-connections", "HTTP/1.1, HBONE"),
    ("waypoint-hbone/http2/32-connections", "HTTP/2, HBONE"),
)

PLOTS = (
    Plot(
        file="throughput.svg",
        title="Throughput across nodes",
        metric="gbit_per_s",
        groups=_streams("cross-node"),
    ),
    Plot(
        file="rtt.svg",
        title="Round trip across nodes, median",
        metric="p50_us",
        groups=_sizes("cross-node"),
    ),
    Plot(
        file="connects.svg",
        title="Connects per second",
        metric="connects_per_s",
        groups=[("same-node/connects", "same node"), ("cross-node/connects", "across nodes")],
    ),
    Plot(
        file="cpu.svg",
        title="CPU of the mesh per 10⁹ bytes, across nodes",
        metric="cpu_s_per_gb",
        groups=_streams("cross-node"),
    ),
    Plot(
        file="idle.svg",
        title="Resident memory of an idle connection, per side",
        metric="kib_per_connection",
        groups=[
            ("cross-node/idle/1000", "1,000 open"),
            ("cross-node/idle/10000", "10,000 open"),
        ],
    ),
    Plot(
        file="waypoint-rate.svg",
        title="Waypoint, requests per second",
        metric="requests_per_s",
        groups=_WAYPOINT,
    ),
    Plot(
        file="waypoint-cpu.svg",
        title="CPU of the waypoint per 1,000 requests",
        metric="cpu_s_per_1000",
        groups=_WAYPOINT,
    ),
    Plot(
        file="waypoint-latency.svg",
        title="Waypoint, 99th percentile at 3,000 requests per second",
        metric="p99_us",
        groups=[
            ("waypoint/http1/3000-per-s", "HTTP/1.1"),
            ("waypoint/http2/3000-per-s", "HTTP/2"),
            ("waypoint-hbone/http1/3000-per-s", "HTTP/1.1, HBONE"),
            ("waypoint-hbone/http2/3000-per-s", "HTTP/2, HBONE"),
        ],
    ),
)


def draw(plot: Plot, measured: Sequence[Measured]) -> str | None:
    """The picture; None if nothing of it was measured."""
    values = {
        (m.scenario, m.peer): m.summary
        for m in measured
        if m.metric == plot.metric and m.peer in COLOURS
    }
    groups = [group for group in plot.groups if any(key[0] == group[0] for key in values)]
    if not groups:
        return None
    scenarios = {scenario for scenario, _ in groups}
    shown = {key: summary for key, summary in values.items() if key[0] in scenarios}
    peers = [peer for peer in COLOURS if any(key[1] is peer for key in shown)]
    top = max(summary.high for summary in shown.values()) * 1.05 or 1.0
    parts = [*_frame(plot, peers), *_axis(top)]
    step = (WIDTH - LEFT - RIGHT) / len(groups)
    for number, (scenario, label) in enumerate(groups):
        left = LEFT + number * step
        parts.append(_text(left + step / 2, HEIGHT - BOTTOM + 18, label, "middle"))
        width = step * 0.8 / len(peers)
        for place, peer in enumerate(peers):
            summary = shown.get((scenario, peer))
            if summary is not None:
                at = left + step * 0.1 + place * width
                parts += _bar(at, width * 0.9, summary, top, COLOURS[peer])
    return "\n".join([*parts, "</svg>\n"])


def _frame(plot: Plot, peers: Sequence[Peer]) -> list[str]:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 18, f"{plot.title} [{METRICS[plot.metric].unit}]", "start"),
    ]
    for place, peer in enumerate(peers):
        at = LEFT + place * 165
        parts.append(f'<rect x="{at}" y="28" width="11" height="11" fill="{COLOURS[peer]}"/>')
        parts.append(_text(at + 16, 38, peer, "start"))
    return parts


def _axis(top: float) -> list[str]:
    parts = []
    for quarter in range(5):
        value = top * quarter / 4
        y = _y(value, top)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(
            _text(LEFT - 6, y + 4, f"{value:,.3g}" if top < 100 else f"{value:,.0f}", "end")
        )
    return parts


def _bar(at: float, width: float, summary: Summary, top: float, colour: str) -> list[str]:
    """The median as a bar, the spread as a line."""
    y, base = _y(max(summary.median, 0.0), top), _y(0, top)
    middle = at + width / 2
    spread = f"M{middle:.1f} {_y(summary.low, top):.1f}V{_y(summary.high, top):.1f}"
    return [
        f'<rect x="{at:.1f}" y="{y:.1f}" width="{width:.1f}" height="{base - y:.1f}" '
        f'fill="{colour}"/>',
        f'<path d="{spread}" stroke="#333"/>',
    ]


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
