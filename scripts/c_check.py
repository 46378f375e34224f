"""Compile the C that user space and the kernel share, alone and with every warning an error.

The BPF programs themselves are compiled by bcc when they are loaded; `make test` does that.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c")


def main() -> int:
    """Check `bpf/layout.h` with every compiler that is here; 1 on the first complaint."""
    header = ROOT / "bpf" / "layout.h"
    compilers = [name for name in ("gcc", "clang") if shutil.which(name)]
    if not compilers:
        print("no C compiler found: run `sudo make setup`", file=sys.stderr)
        return 1
    source = f'#include "{header}"\nint main(void) {{ return 0; }}\n'
    for compiler in compilers:
        done = subprocess.run([compiler, *FLAGS, "-"], input=source, text=True, check=False)
        if done.returncode != 0:
            return 1
    print(f"{header.relative_to(ROOT)}: clean with {' and '.join(compilers)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
