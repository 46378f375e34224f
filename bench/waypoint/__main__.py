"""Only the waypoint's scenarios: `python -m bench.waypoint [--quick] [--only PREFIX]`.

Needs no root and no mesh: both proxies get the same routes, policy and upstream on loopback.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime

from bench.__main__ import TOOLS, show, write
from bench.machine import describe_machine, describe_versions
from bench.model import Report
from bench.plan import FULL, QUICK, own_cores
from bench.scenario import Runner
from bench.scenarios.waypoint import hbone_suite, waypoint_suite


def main() -> int:
    """Measure and print; 1 if any scenario failed."""
    parser = argparse.ArgumentParser(prog="bench.waypoint", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="waypoint", help="scenarios that begin so")
    options = parser.parse_args()
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:6.1f} s] {text}", flush=True)

    machine = describe_machine()
    say(f"load of the machine before: {machine['load before']}")
    runner = Runner(say, lambda name: name.startswith(options.only))
    plan = QUICK if options.quick else FULL
    runner.run_suite(waypoint_suite(plan, own_cores(), TOOLS))
    runner.run_suite(hbone_suite(plan, own_cores(), TOOLS))
    report = Report(
        mode="waypoint",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine,
        versions=describe_versions(),
        measured=tuple(runner.measured),
        failures=tuple(runner.failures),
    )
    show(report)
    write(report)
    return 1 if runner.failures else 0


if __name__ == "__main__":
    sys.exit(main())
