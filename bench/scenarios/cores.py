"""Decisions and data structures alone: no sockets, no root. Each round in a fresh process."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial

from bench import http2_session, policy, routing, scrape, snapshot
from bench.model import Peer
from bench.plan import POLICY_RULES, Cores, Plan
from bench.scenario import Scenario, Suite, Values
from mesh.http2.select import Engine

TIMEOUT_S = 240.0
START_S = 0.8
"""Of the interpreter with its imports, and of the measurement beyond what the size asks for."""


def cores_suite(plan: Plan, cores: Cores) -> Suite:
    """Policy, routes, snapshot, metrics and the HTTP/2 session."""

    return Suite(name="cores", scenarios=_scenarios(plan, cores.server), build=nullcontext)


def _scenarios(plan: Plan, core: int) -> list[Scenario]:
    alone = (
        (f"core/policy/{plan.policies}x{POLICY_RULES}", "policy", plan.policies, 8e-4),
        (f"core/snapshot/{plan.workloads}", "snapshot", plan.workloads, 1e-4),
        (f"core/scrape/{plan.series}", "scrape", plan.series, 2e-4),
        *((f"core/routes/{count}", "routes", count, 3e-4) for count in plan.routes),
    )
    found = [
        Scenario(
            name=name,
            peers=(Peer.OURS,),
            rounds=plan.core_rounds,
            measure=partial(_in_child, core, kind, size),
            round_s=START_S + size * each_s,
        )
        for name, kind, size, each_s in alone
    ]
    session = Scenario(
        name="core/http2-session",
        peers=(Peer.OURS, Peer.H2),
        rounds=plan.core_rounds,
        measure=lambda peer: _in_child(core, _SESSION_OF[peer], 0, peer),
        round_s=4.0,
    )
    return [*found, session] if plan.session else found


def _in_child(core: int, kind: str, size: int, _: Peer) -> Values:
    """Memory that one measurement freed must not serve the next: each has its own process."""
    argv = ["taskset", "-c", str(core), sys.executable, "-m", __name__, kind, str(size)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}:\n{done.stderr}")
    values: dict[str, float] = json.loads(done.stdout)
    return values


def _policy(size: int) -> Values:
    found = policy.measure(size)
    return {"p50_us": found.p50_us, "p99_us": found.p99_us, "compile_s": found.compile_s}


def _snapshot(size: int) -> Values:
    found = snapshot.measure(size)
    return {
        "seconds": found.first_s,
        "change_ms": found.change_s * 1e3,
        "kib": found.delta_bytes / 1024,
    }


def _routes(size: int) -> Values:
    found = routing.measure(size)
    return {"p50_us": found.p50_us, "p99_us": found.p99_us, "compile_s": found.compile_s}


def _scrape(size: int) -> Values:
    found = scrape.measure(size)
    return {
        "ms": found.scrape_ms,
        "kib": found.text_bytes / 1024,
        "record_us": found.record_us,
    }


def _session(engine: Engine, _: int) -> Values:
    found = http2_session.measure(engine)
    return {
        "connect_us": found["us per CONNECT, open and close"],
        "chunk_16k_us": found["us per 16 KiB"],
        "stream_bytes": found["bytes per idle stream"],
    }


_SESSION_OF = {Peer.OURS: "session-nghttp2", Peer.H2: "session-h2"}

KINDS: Mapping[str, Callable[[int], Values]] = {
    "policy": _policy,
    "snapshot": _snapshot,
    "scrape": _scrape,
    "routes": _routes,
    "session-nghttp2": partial(_session, "nghttp2"),
    "session-h2": partial(_session, "h2"),
}


def main() -> None:
    """Measure one kind and print its values as JSON; run as a child."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("size", type=int)
    options = parser.parse_args()
    print(json.dumps(dict(KINDS[options.kind](options.size))))


if __name__ == "__main__":
    main()
