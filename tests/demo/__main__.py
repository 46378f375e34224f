"""`make demo`: two nodes, five pods, real applications; every claim printed was checked.

Exit status 0 only if all claims hold. Leaves nothing behind, also after Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from tests.demo.chapters import enrolment, paths, secrecy, throughput
from tests.demo.narrator import Narrator
from tests.demo.policy import crash, denials, farewell, revocation, strictness
from tests.demo.stage import LAB_NAME, VIPS, Stage, set_stage
from tests.demo.waypoint import waypoint
from tests.lab import Lab, LabError
from tests.lab.agent import REPOSITORY
from tests.lab.leaks import Session, find_leaks, take_inventory

INTERRUPTED = 130
PLAIN_WIDTH = 200
STORY: tuple[Callable[[Narrator, Stage], None], ...] = (
    enrolment,
    paths,
    throughput,
    secrecy,
    strictness,
    denials,
    revocation,
    crash,
    waypoint,
)


@click.command()
@click.option("--keep", is_flag=True, help="Stay up after the story and say what to try.")
@click.option("--name", default=LAB_NAME, show_default=True, help="Prefix of all it makes.")
def main(keep: bool, name: str) -> None:
    """Show the mesh at work on this machine."""
    if os.geteuid() != 0:
        click.echo("needs root: run `sudo make demo`", err=True)
        sys.exit(1)
    # A shell's background job inherits an ignored SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    # A pipe or file has no width: lines must not be folded there.
    tell = Narrator(Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH))
    try:
        _perform(tell, keep, name)
    except KeyboardInterrupt:
        tell.say("Interrupted; everything was removed.")
        sys.exit(INTERRUPTED)
    except LabError as error:
        click.echo(f"the demo could not be set up: {error}", err=True)
        sys.exit(1)
    tell.summary()
    sys.exit(1 if tell.broken else 0)


def _perform(tell: Narrator, keep: bool, name: str) -> None:
    session = Session.begin()
    try:
        _play(tell, session, keep, name)
    finally:
        session.end()


def _play(tell: Narrator, session: Session, keep: bool, name: str) -> None:
    before, was_alone = take_inventory(), session.is_alone()
    tell.title(
        "meshnode demo",
        "Two nodes and their pods, as network namespaces of this machine; nothing else is touched.",
    )
    with Lab("demo", name=name) as lab:
        try:
            stage = set_stage(lab)
            _tell_cast(tell, stage)
            for chapter in STORY:
                chapter(tell, stage)
                if tell.broken and chapter is enrolment:
                    return  # nothing else can be shown without agents
            if keep:
                _stay(tell, stage)
            farewell(tell, stage)
        except KeyboardInterrupt:
            # Clearing up takes a moment; a second Ctrl-C must not stop it half-way.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            tell.say("Clearing up …")
            raise
    with tell.claim("nothing is left: no namespace, cgroup, process, pin, socket or file"):
        left = {entry for entry in take_inventory().named - before.named if lab.name in entry}
        left |= set(find_leaks(before, session, was_alone))
        assert not left, "\n".join(sorted(left))


def _tell_cast(tell: Narrator, stage: Stage) -> None:
    rows = [
        (pod.node.short_name, f"{pod.namespace}/{pod.name}", pod.address4, pod.address6)
        for pod in stage.pods
    ]
    tell.table(("node", "pod", "IPv4", "IPv6"), rows)


def _stay(tell: Narrator, stage: Stage) -> None:
    inside = f"sudo {sys.executable} -m tests.lab.enter {stage.lab.name}"
    meshnode = f"sudo {Path(sys.executable).with_name('meshnode')}"
    tell.chapter("The mesh stays up. Things to try from another terminal")
    tell.say(f"cd {REPOSITORY}")
    for text in (
        f"{inside} a client curl -s http://{VIPS['orders'][0]}/     # any program, in any pod",
        f"{meshnode} status --node {stage.a.name}",
        f"{meshnode} authz check shop/web shop/orders 80 --node {stage.b.name}",
        f"{meshnode} bpf enrolled --node {stage.a.name}",
        f"$EDITOR {stage.lab.objects.path}/strict.yaml     # agents follow the directory",
        f"tail -f {stage.lab.directory}/logs/*-agent.log",
    ):
        tell.say(f"  {text}")
    at_terminal = sys.stdin.isatty()
    tell.say(f"Press {'Enter or ' if at_terminal else ''}Ctrl-C to uninstall and clear up.")
    try:
        if at_terminal:
            sys.stdin.readline()
        else:
            signal.pause()
    except KeyboardInterrupt:
        tell.say("")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
