"""The holder's memory is paid on every node: what its process imports stays small."""

from __future__ import annotations

import subprocess
import sys


def test_process_imports_the_standard_library_and_little_of_ours() -> None:
    code = "import agent.holder.__main__, sys\nprint(*sys.modules)"
    # -S: no site-packages, so anything that is not the standard library fails.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.split())
    assert not modules & {"asyncio", "ssl", "logging", "subprocess"}
    ours = {name for name in modules if name.split(".")[0] in ("agent", "mesh")}
    outside = {name for name in ours if not name.startswith("agent.holder")}
    assert outside == {"agent", "agent.netns", "agent.paths", "mesh", "mesh.errors"}
