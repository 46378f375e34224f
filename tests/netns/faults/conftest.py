"""One running world per module: every test leaves it healthy, or says that it could not."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from tests.conftest import NO_ROOT
from tests.lab import Agent, Lab
from tests.netns.faults.world import World


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if os.geteuid() != 0:
        pytest.skip(NO_ROOT)
    with Lab(request.module.__name__.rpartition(".")[2].removeprefix("test_")) as lab:
        made = World(lab)
        made.start()
        made.check_served()
        yield made


def notable(agent: Agent) -> str:
    """What an agent said last, without the connections that went well."""
    lines = [line for line in agent.log_tail(400).splitlines() if '"flag": "-"' not in line]
    return "\n".join(lines[-30:])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the agents said beside a failure."""
    report = yield
    labs = [value for value in item.funcargs.values() if isinstance(value, World | Lab)]
    if report.failed:
        for lab in (value.lab if isinstance(value, World) else value for value in labs):
            for node in lab.nodes.values():
                if node.running_agent is not None:
                    title = f"agent of {node.short_name}"
                    report.sections.append((title, notable(node.running_agent)))
    return report
