"""Run the table and write docs/conformance.md: `python -m tests.contract.conformance`."""

from __future__ import annotations

import sys
import traceback

from tests.contract.conformance.document import DOCUMENT, render
from tests.contract.conformance.run import Wire, run, wires
from tests.unit.mesh.routing.conformance.table import WIRE_CASES


def main() -> int:
    """Run every case; the exit status says whether all passed."""
    results: dict[tuple[str, Wire], bool] = {}
    for case in WIRE_CASES:
        for wire in wires(case):
            print(f"{case.name} ({wire}) ", end="", flush=True)
            try:
                run(case, wire)
                results[(case.name, wire)] = True
            except Exception:
                # Whatever went wrong is this case's failure; the report is about all of them.
                traceback.print_exc()
                results[(case.name, wire)] = False
            print("pass" if results[(case.name, wire)] else "FAIL", flush=True)
    DOCUMENT.write_text(render(results))
    failed = [f"{name} ({wire})" for (name, wire), passed in results.items() if not passed]
    print(f"{len(results)} runs, {len(failed)} failed {' '.join(failed)}".rstrip())
    print(f"wrote {DOCUMENT}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
