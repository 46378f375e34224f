"""Pictures are valid XML and show what was measured."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from bench.model import METRICS, Peer
from bench.plots import COLOURS, HEIGHT, PLOTS, Plot, draw
from tests.unit.bench.samples import measured

PLOT = Plot(file="p.svg", title="A < B", metric="p50_us", groups=[("x", "1 B"), ("y", "2 B")])
SVG = "{http://www.w3.org/2000/svg}"


def bars(picture: str) -> list[tuple[str, float]]:
    """Colour and height of every bar; the background and the legend are no bars."""
    root = ElementTree.fromstring(picture)
    found = []
    for rect in root.iter(f"{SVG}rect"):
        colour, height = rect.get("fill", ""), float(rect.get("height", "0"))
        if colour != "white" and rect.get("width") != "11":
            found.append((colour, height))
    return found


def test_a_bar_for_each_value_in_proportion() -> None:
    picture = draw(
        PLOT,
        [
            measured("x", Peer.OURS, "p50_us", 10.0),
            measured("x", Peer.NO_MESH, "p50_us", 5.0),
            measured("y", Peer.OURS, "p50_us", 20.0),
            measured("y", Peer.OURS, "p99_us", 999.0),
        ],
    )
    assert picture is not None
    [first, plain, second] = bars(picture)
    assert (first[0], plain[0]) == (COLOURS[Peer.OURS], COLOURS[Peer.NO_MESH])
    assert abs(first[1] / plain[1] - 2.0) < 0.01
    assert abs(second[1] / first[1] - 2.0) < 0.01
    assert second[1] < HEIGHT


def test_nothing_measured_is_no_picture() -> None:
    assert draw(PLOT, [measured("z", Peer.OURS, "p50_us", 1.0)]) is None


def test_groups_without_values_are_left_out() -> None:
    picture = draw(PLOT, [measured("x", Peer.OURS, "p50_us", 1.0)])
    assert picture is not None
    assert "1 B" in picture
    assert "2 B" not in picture


def test_the_pictures_of_the_document_have_names_of_their_own_and_known_metrics() -> None:
    assert len({plot.file for plot in PLOTS}) == len(PLOTS)
    assert all(plot.metric in METRICS for plot in PLOTS)
