"""`make clean`: clear what killed tests and demos left on this machine."""

from __future__ import annotations

import sys

from tests.lab.record import sweep


def main() -> int:
    for name in sweep():
        print(f"cleared the leftovers of {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
