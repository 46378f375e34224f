"""A reader of the log that stops, stops nobody else."""

from __future__ import annotations

import threading

from waypoint.telemetry.line_writer import MAX_BYTES, LineWriter

LINE = "x" * 1023 + "\n"


def test_everything_is_written_in_order() -> None:
    written: list[str] = []
    lines = LineWriter(written.append)
    for number in range(100):
        lines.put(f"{number}\n")
    lines.close()
    assert "".join(written).split() == [str(number) for number in range(100)]
    assert lines.dropped == 0


def test_what_cannot_be_written_is_counted() -> None:
    def full(text: str) -> None:
        raise OSError("no space left")

    lines = LineWriter(full)
    lines.put("a\nb\n")
    lines.close()
    assert lines.dropped == 2


def test_a_reader_that_stands_still_costs_bounded_memory() -> None:
    go = threading.Event()
    lines = LineWriter(lambda _: go.wait(60))
    block = LINE * 1024
    for _ in range(3 * MAX_BYTES // len(block)):
        lines.put(block)
    assert lines.dropped == 2 * MAX_BYTES // len(LINE)
    go.set()
    lines.close()
    assert lines.dropped == 2 * MAX_BYTES // len(LINE)
