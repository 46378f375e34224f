"""Sockets of waypoints are found while their process lives, and cleared away afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mesh.run_files import drop_dead_sockets, waypoint_socket, waypoint_sockets


def dead_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait(20)
    return done.pid


def test_the_living_are_found_and_the_dead_dropped(tmp_path: Path) -> None:
    living = waypoint_socket("shop/gate", os.getpid(), tmp_path)
    dead = waypoint_socket("shop/gate", dead_pid(), tmp_path)
    for path in (living, dead, tmp_path / "something-else", tmp_path / "a_b_c.sock"):
        path.touch()
    assert waypoint_sockets(tmp_path) == [("shop/gate", living)]
    drop_dead_sockets(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [living.name, "something-else", "a_b_c.sock"]
    )


def test_without_the_directory(tmp_path: Path) -> None:
    assert waypoint_sockets(tmp_path / "none") == []
    drop_dead_sockets(tmp_path / "none")
