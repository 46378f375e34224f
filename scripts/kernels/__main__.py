"""`python -m scripts.kernels [SERIES …]`: the capture tests and kTLS facts on other kernels."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path

from scripts.kernels.machine import Kernel, Outcome, fetch, need_packages, run

DEFAULT_SERIES = ("6.1", "6.12")
ROOT = Path(__file__).resolve().parents[2]
TESTS = ("tests/netns/capture",)
TIMEOUT_S = 3600.0
BOOT_RETRIES = 2
_GUEST_TEST_TIMEOUT_S = 900


def command(tests: list[str]) -> str:
    """What the guest runs: tests, then facts. The exit status is the tests'."""
    python = shlex.quote(sys.executable)
    options = f"-q -p no:cacheprovider --timeout={_GUEST_TEST_TIMEOUT_S} -o addopts="
    return (
        f"cd {shlex.quote(str(ROOT))}\n"
        "export PYTHONDONTWRITEBYTECODE=1\n"
        f"{python} -m scripts.kernels.ktls >/mnt/out/ktls 2>&1\n"
        f"{python} -m pytest {options} {' '.join(map(shlex.quote, tests))}\n"
    )


def main(arguments: list[str]) -> int:
    """Run every kernel; the exit status is 0 if all tests passed everywhere."""
    series = [one for one in arguments if one[:1].isdigit()] or list(DEFAULT_SERIES)
    tests = [one for one in arguments if not one[:1].isdigit()] or list(TESTS)
    need_packages()
    failed = []
    for one in series:
        kernel = fetch(one)
        print(f"=== {kernel.release}: {' '.join(tests)}", flush=True)
        with tempfile.TemporaryDirectory(prefix="meshnode-kernel-") as directory:
            outcome = run(kernel, command(tests), Path(directory), TIMEOUT_S)
            for _ in range(BOOT_RETRIES):
                if outcome.has_booted:
                    break
                print(f"the guest did not boot: {outcome.boot[-300:]}\ntrying again", flush=True)
                outcome = run(kernel, command(tests), Path(directory), TIMEOUT_S)
            ktls = Path(directory) / "ktls"
            facts = ktls.read_text() if ktls.exists() else "no facts about kTLS\n"
        _report(kernel, outcome, facts)
        if outcome.status != 0:
            failed.append(kernel.release)
    if failed:
        print(f"failed on {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _report(kernel: Kernel, outcome: Outcome, facts: str) -> None:
    print(outcome.boot.splitlines()[-1] if outcome.boot else "no word from the guest")
    print(outcome.output)
    print("kTLS:", ", ".join(facts.split("\n")).strip(", "))
    print(
        f"{kernel.release}: exit status {outcome.status} after {outcome.seconds:.0f} s", flush=True
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
