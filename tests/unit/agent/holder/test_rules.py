"""The numbers that the data path and the pods' routing must agree upon."""

from __future__ import annotations

from agent.holder.rules import MARK
from bpf.layout import ZTUNNEL_MARK


def test_the_rule_is_about_the_mark_that_ztunnel_sets() -> None:
    assert MARK == ZTUNNEL_MARK
