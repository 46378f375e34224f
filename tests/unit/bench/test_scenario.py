"""The runner: order of turns, failures that stay where they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.model import Peer
from bench.scenario import Lent, Runner, Scenario, Suite, Values

PEERS = (Peer.OURS, Peer.NO_MESH, Peer.ENVOY_TLS)


def runner(only: str = "") -> tuple[Runner, list[str]]:
    said: list[str] = []
    return Runner(said.append, lambda name: name.startswith(only)), said


def suite(*scenarios: Scenario, fails: bool = False) -> Suite:
    @contextmanager
    def build() -> Iterator[None]:
        if fails:
            raise OSError("no such machine")
        yield

    return Suite(name="some", scenarios=scenarios, build=build)


def one(name: str = "x", rounds: int = 1) -> Scenario:
    return Scenario(name=name, peers=[Peer.OURS], rounds=rounds, measure=lambda _: {"ms": 1.0})


def test_every_round_begins_with_another_peer() -> None:
    asked: list[Peer] = []

    def measure(peer: Peer) -> Values:
        asked.append(peer)
        return {"seconds": float(len(asked))}

    run, _ = runner()
    run.run(Scenario(name="x", peers=PEERS, rounds=3, measure=measure))
    assert asked[0::3] == list(PEERS)
    assert [asked.count(peer) for peer in PEERS] == [3, 3, 3]
    ours = [m.summary for m in run.measured if m.peer is Peer.OURS]
    assert (ours[0].low, ours[0].median, ours[0].high) == (1.0, 6.0, 8.0)


def test_a_peer_that_fails_drops_out_and_the_others_go_on() -> None:
    turns: list[Peer] = []

    def measure(peer: Peer) -> Values:
        turns.append(peer)
        if peer is Peer.ENVOY_TLS and turns.count(peer) == 2:
            raise RuntimeError("it died")
        return {"seconds": 1.0}

    run, said = runner()
    run.run(Scenario(name="x", peers=PEERS, rounds=4, measure=measure))
    assert {m.peer for m in run.measured} == {Peer.OURS, Peer.NO_MESH}
    assert all(m.summary.rounds == 4 for m in run.measured)
    assert turns.count(Peer.ENVOY_TLS) == 2
    [failure] = run.failures
    assert (failure.scenario, failure.peer) == ("x", Peer.ENVOY_TLS)
    assert failure.reason == "RuntimeError: it died"
    assert any(line.startswith("FAILED x, Envoy mTLS TCP pair") for line in said)


def test_what_was_noted_on_an_error_is_told_too() -> None:
    def measure(_: Peer) -> Values:
        error = RuntimeError("no answer")
        error.add_note("--- log of the agent")
        raise error

    run, _ = runner()
    run.run(Scenario(name="x", peers=[Peer.OURS], rounds=1, measure=measure))
    assert run.failures[0].reason == "RuntimeError: no answer\n--- log of the agent"


def test_a_suite_that_cannot_be_set_up_is_one_failure() -> None:
    run, _ = runner()
    run.run_suite(suite(one(), fails=True))
    assert [(f.scenario, f.peer) for f in run.failures] == [("some", None)]


def test_only_what_is_wanted_runs() -> None:
    run, _ = runner("x/wanted")
    run.run_suite(suite(one("x/wanted"), one("x/other")))
    assert [m.scenario for m in run.measured] == ["x/wanted"]


def test_nothing_is_set_up_for_nothing() -> None:
    run, said = runner("other")
    run.run_suite(suite(one(), fails=True))
    assert (run.failures, said) == ([], [])


def test_when_it_is_late_each_scenario_gets_one_round() -> None:
    run = Runner(lambda _: None, lambda _: True, late=lambda: True)
    run.run(one(rounds=5))
    assert [m.summary.rounds for m in run.measured] == [1]


def test_what_is_lent_is_there_during_the_block_only() -> None:
    lent: Lent[str] = Lent()
    with lent.lend("stand"):
        assert lent.now == "stand"
    with pytest.raises(LookupError):
        _ = lent.now


def test_a_scenario_foretells_its_length() -> None:
    scenario = Scenario(name="x", peers=PEERS, rounds=4, measure=lambda _: {}, round_s=0.5)
    assert scenario.expected_s == 6.0
