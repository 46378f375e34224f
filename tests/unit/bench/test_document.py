"""A report for programs and for people."""

from __future__ import annotations

import json

from bench.document import (
    HEADINGS,
    bar_cells,
    markdown_table,
    result_cells,
    terminal_table,
    to_json,
    to_markdown,
)
from bench.model import Failure, Peer
from tests.unit.bench.samples import measured, report

SCENARIO = "cross-node/throughput/1"
OURS = measured(SCENARIO, Peer.OURS, "gbit_per_s", 4.0, 5.0, 6.0)
THEIRS = measured(SCENARIO, Peer.ENVOY_HBONE, "gbit_per_s", 4.0, 4.0, 10.0)


def test_the_json_has_the_stable_keys() -> None:
    body = json.loads(to_json(report(OURS, THEIRS)))
    [result] = body["results"]
    assert result == {
        "scenario": SCENARIO,
        "peer": "Envoy HBONE pair",
        "metric": "gbit_per_s",
        "unit": "Gb/s",
        "better": "higher",
        "ours": 5.0,
        "theirs": 4.0,
        "ratio": 1.25,
        "rounds": 3,
        "spread": {"ours": [4.0, 6.0], "theirs": [4.0, 10.0]},
    }
    assert {"date", "machine", "versions", "bars", "failures"} <= set(body)
    [bar] = [bar for bar in body["bars"] if bar["verdict"] != "not measured"]
    assert (bar["scenario"], bar["verdict"], bar["value"]) == (SCENARIO, "met", 1.25)


def test_a_result_without_a_peer_has_nulls() -> None:
    only = measured("node/start/warm", Peer.OURS, "seconds", 1.0)
    [result] = json.loads(to_json(report(only)))["results"]
    assert (result["peer"], result["theirs"], result["ratio"]) == (None, None, None)
    assert result["spread"] == {"ours": [1.0, 1.0], "theirs": None}


def test_failures_are_told() -> None:
    failure = Failure(scenario="x", peer=Peer.ENVOY_TLS, reason="it died\nlog")
    body = json.loads(to_json(report(OURS, failures=(failure,))))
    assert body["failures"] == [
        {"scenario": "x", "peer": "Envoy mTLS TCP pair", "reason": "it died\nlog"}
    ]
    assert "- x, Envoy mTLS TCP pair: it died\n" in to_markdown(
        report(OURS, failures=(failure,)), []
    )


def test_values_carry_their_spread() -> None:
    [cells] = result_cells(report(OURS, THEIRS))
    assert cells == (
        SCENARIO,
        "gbit_per_s [Gb/s]",
        "5.00 (4.00–6.00)",
        "Envoy HBONE pair",
        "4.00 (4.00–10.00)",
        "1.25",
    )


def test_a_short_run_leaves_out_the_bars_it_does_not_measure() -> None:
    assert len(bar_cells(report(OURS, THEIRS, mode="quick"))) == 1
    verdicts = [cells[-1] for cells in bar_cells(report(OURS, THEIRS))]
    assert verdicts.count("not measured") == len(verdicts) - 1


def test_columns_are_aligned() -> None:
    text = terminal_table(("a", "b"), [("longer", "x"), ("y", "z")])
    assert text == "a       b\nlonger  x\ny       z"


def test_a_document_has_every_part() -> None:
    text = to_markdown(report(OURS, THEIRS), [("Throughput", "benchmarks/throughput.svg")])
    assert markdown_table(HEADINGS, result_cells(report(OURS, THEIRS))) in text
    assert "![Throughput](benchmarks/throughput.svg)" in text
    assert "- `gbit_per_s` [Gb/s], higher is better: payload delivered" in text
    for heading in ("## Bars", "## Results", "## Metrics", "## Method"):
        assert heading in text
