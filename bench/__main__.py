"""Every benchmark, side by side with its peers: `python -m bench` (see docs/benchmarks.md)."""

from __future__ import annotations

import argparse
import compileall
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from bench.document import (
    BAR_HEADINGS,
    HEADINGS,
    bar_cells,
    result_cells,
    terminal_table,
    to_json,
    to_markdown,
)
from bench.machine import ROOT, describe_machine, describe_versions, load_average
from bench.model import Report
from bench.plan import FULL, QUICK, SMOKE, AgentSettings, Plan, own_cores
from bench.plots import PLOTS, draw
from bench.scenario import Runner, Suite
from bench.scenarios.cores import cores_suite
from bench.scenarios.network import network_suite
from bench.scenarios.node import node_suite
from bench.scenarios.observation import observed_node_suite, observed_waypoint_suite
from bench.scenarios.waypoint import hbone_suite, waypoint_suite
from mesh.tunnel.select import best_engine

RESULTS = ROOT / "bench" / "results"
TOOLS = ROOT / ".cache" / "bench"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
PICTURES = ROOT / "docs" / "benchmarks"
QUIET_LOAD = 0.5
PACKAGES = ("agent", "bench", "bpf", "controller", "mesh", "waypoint")


def main() -> int:
    """Run what is asked for; 1 if any scenario failed."""
    options = parse_arguments(sys.argv[1:])
    plan = {"full": FULL, "quick": QUICK, "smoke": SMOKE}[options.mode]
    if options.rounds:
        plan = replace(plan, rounds=options.rounds)
    agents = AgentSettings(options=options.agent_option, engine=options.engine)
    if options.list:
        list_scenarios(all_suites(plan, agents), options.only)
        return 0
    if os.geteuid() != 0:
        print("needs root: network namespaces, cgroups and BPF", file=sys.stderr)
        return 2
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:6.1f} s] {text}", flush=True)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt  # so that what was set up is taken down

    signal.signal(signal.SIGTERM, stop)
    if load_average() > QUIET_LOAD:
        say(f"the machine is not quiet (load {load_average():.1f}): figures will be off")
    # A node's agents are started with byte code in place, as after an installation.
    for package in PACKAGES:
        compileall.compile_dir(str(ROOT / package), quiet=2)
    try:
        report = run(plan, options.only, agents, say)
    except KeyboardInterrupt:
        say("interrupted: all that was set up is gone")
        return 128 + signal.SIGINT
    show(report)
    write(report)
    say("done")
    if not report.measured and not report.failures:
        print(f"no scenario begins with {options.only!r}", file=sys.stderr)
        return 2
    return 1 if report.failures else 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", dest="mode", action="store_const", const="quick", default="full")
    parser.add_argument("--smoke", dest="mode", action="store_const", const="smoke")
    parser.add_argument(
        "--only", default="", metavar="PREFIX", help="scenarios whose name begins so"
    )
    parser.add_argument(
        "--list", action="store_true", help="show what would run and how long it would take"
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="of everything that is compared with peers"
    )
    parser.add_argument(
        "--agent-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="passed to every agent, such as --agent-option=--workers=2",
    )
    parser.add_argument(
        "--engine",
        choices=("native", "python"),
        default="",
        help="tunnel engine of every agent (default: as the agent chooses)",
    )
    return parser.parse_args(arguments)


def run(plan: Plan, only: str, agents: AgentSettings, say: Callable[[str], None]) -> Report:
    """Run the suites that have something wanted."""
    versions = dict(describe_versions())
    versions["tunnel engine"] = agents.engine or best_engine()
    versions["agent options"] = " ".join(agents.argv)
    versions["rounds"] = str(plan.rounds)
    machine = describe_machine()
    end = time.monotonic() + plan.limit_s
    runner = Runner(say, lambda name: name.startswith(only), lambda: time.monotonic() > end)
    for suite in all_suites(plan, agents):
        runner.run_suite(suite)
    return Report(
        mode="partial" if only else plan.mode,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine,
        versions=versions,
        measured=tuple(runner.measured),
        failures=tuple(runner.failures),
    )


def all_suites(plan: Plan, agents: AgentSettings) -> list[Suite]:
    """What there is, in the order in which it is run."""
    cores = own_cores()
    return [
        cores_suite(plan, cores),
        node_suite(plan, cores, agents),
        network_suite(plan, cores, TOOLS, agents),
        waypoint_suite(plan, cores, TOOLS),
        hbone_suite(plan, cores, TOOLS),
        observed_waypoint_suite(plan, cores, TOOLS),
        observed_node_suite(plan, cores, TOOLS, agents),
    ]


def list_scenarios(suites: Sequence[Suite], only: str) -> None:
    """What would run, and how long it would take."""
    cells: list[tuple[str, ...]] = []
    total = 0.0
    for suite in suites:
        wanted = [scenario for scenario in suite.scenarios if scenario.name.startswith(only)]
        total += sum((s.expected_s for s in wanted), suite.setup_s if wanted else 0.0)
        cells += [
            (s.name, str(s.rounds), f"{s.expected_s:.1f}", ", ".join(s.peers)) for s in wanted
        ]
    print(terminal_table(("scenario", "rounds", "about s", "peers"), cells))
    print(f"\n{len(cells)} scenarios, about {total:.0f} s in all")


def show(report: Report) -> None:
    """Both tables on the terminal, and what failed."""
    print()
    print(terminal_table(HEADINGS, result_cells(report)))
    print()
    print(terminal_table(BAR_HEADINGS, bar_cells(report)))
    for failure in report.failures:
        print(f"\nFAILED {failure.scenario} {failure.peer or ''}\n{failure.reason}")


def write(report: Report) -> None:
    """The full run is the one that is kept; others lie beside it."""
    RESULTS.mkdir(exist_ok=True)
    if report.mode != "full":
        (RESULTS / f"{report.mode}.json").write_text(to_json(report))
        return
    (RESULTS / "latest.json").write_text(to_json(report))
    PICTURES.mkdir(exist_ok=True)
    drawn: list[tuple[str, str]] = []
    for plot in PLOTS:
        picture = draw(plot, report.measured)
        if picture is not None:
            (PICTURES / plot.file).write_text(picture)
            drawn.append((plot.title, f"{PICTURES.name}/{plot.file}"))
    DOCUMENT.write_text(to_markdown(report, drawn))


if __name__ == "__main__":
    sys.exit(main())
