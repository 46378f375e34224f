"""The runner: order of turns, failures that stay where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.model import Peer
from bench.scenario import Runner, Scenario, Suite, Values

PEERS = (Peer.OURS, Peer.NO_MESH, Peer.ENVOY_TLS)


def runner(only: str = "") -> tuple[Runner, list[str]]:
    said: list[str] = []
    return Runner(said.append, lambda name: name.startswith(only)), said


def suite(*scenarios: Scenario, fails: bool = False) -> Suite:
    @contextmanager
    def build() -> Iterator[Sequence[Scenario]]:
        if fails:
            raise OSError("no such machine")
        yield scenarios

    return Suite(name="some", prefixes=("x",), build=build)


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
    run.run_suite(suite(fails=True))
    assert [(f.scenario, f.peer) for f in run.failures] == [("some", None)]


def test_only_what_is_wanted_runs() -> None:
    run, _ = runner("x/wanted")
    one = Scenario(name="x/wanted", peers=[Peer.OURS], rounds=1, measure=lambda _: {"ms": 1.0})
    two = Scenario(name="x/other", peers=[Peer.OURS], rounds=1, measure=lambda _: {"ms": 1.0})
    run.run_suite(suite(one, two))
    assert [m.scenario for m in run.measured] == ["x/wanted"]
