from __future__ import annotations

from agent.ztunnel.recorder import OpenRecord, Recorder
from mesh.model.address import parse_socket_address as addr
from mesh.model.connection import ConnectionRecord, Path, Reporter, ResponseFlag
from mesh.model.identity import parse_spiffe_id
from mesh.model.policy import PolicyKey
from mesh.model.verdict import Decision, RuleRef, Verdict
from mesh.telemetry.party import party
from mesh.tunnel.contract import End, EndReason
from tests.unit.agent.ztunnel.builders import workload

CLIENT = workload("client", "10.0.0.1")
SERVER = workload("server", "10.0.1.1")


class Sink:
    """Collects what a recorder hands on."""

    def __init__(self) -> None:
        self.opened: list[ConnectionRecord] = []
        self.closed: list[ConnectionRecord] = []
        self.pending = 0
        self.progress: list[tuple[ConnectionRecord, int, int, bool]] = []
        self.recorder = Recorder(self._take, self._notice, self._progressed)

    def _progressed(
        self, record: ConnectionRecord, sent: int, received: int, *, ended: bool
    ) -> None:
        self.progress.append((record, sent, received, ended))

    def _notice(self) -> None:
        self.pending += 1

    def _take(self, opened: list[ConnectionRecord], closed: list[ConnectionRecord]) -> None:
        self.opened += opened
        self.closed += closed

    def begin(self, verdict: Verdict | None = None) -> OpenRecord:
        return self.recorder.begin(
            reporter=Reporter.SOURCE,
            path=Path.HBONE,
            src=party(CLIENT, CLIENT.identity),
            dst=party(SERVER),
            src_addr=addr("10.0.0.1:1000"),
            dst_addr=addr("10.0.1.1:80"),
            verdict=verdict,
        )


def test_a_connection_is_reported_open_and_closed_once() -> None:
    sink = Sink()
    connection = sink.begin()
    assert sink.recorder.under_way == 1
    sink.recorder.opened(connection)
    assert [r.src.name for r in sink.recorder.open_records()] == ["client"]
    end = End(reason=EndReason.DONE, bytes_out=10, bytes_in=3)
    sink.recorder.closed(connection, end, towards_destination=10)
    assert sink.recorder.open_records() == []
    assert sink.recorder.under_way == 0
    sink.recorder.flush()
    sink.recorder.flush()
    assert len(sink.opened) == len(sink.closed) == 1
    assert (sink.closed[0].bytes_sent, sink.closed[0].bytes_received) == (10, 3)
    assert sink.closed[0].flag is ResponseFlag.NONE
    assert sink.closed[0].duration_s >= 0


def test_bytes_are_turned_round_where_the_socket_is_the_destinations() -> None:
    sink = Sink()
    connection = sink.begin()
    end = End(reason=EndReason.PEER_RESET, bytes_out=10, bytes_in=3, detail="why")
    sink.recorder.closed(connection, end, towards_destination=3)
    sink.recorder.flush()
    record = sink.closed[0]
    assert (record.bytes_sent, record.bytes_received) == (3, 10)
    assert (record.flag, record.detail) == (ResponseFlag.UPSTREAM_RESET, "why")


def test_a_refused_connection_counts_as_begun_and_ended() -> None:
    sink = Sink()
    rule = RuleRef(kind="AuthorizationPolicy", policy=PolicyKey("default/p"), rule=2)
    denied = Verdict(allowed=False, decision=Decision.DENY_RULE, decided_by=rule, dry_run=(rule,))
    sink.recorder.failed(sink.begin(denied), ResponseFlag.DENY, "denied")
    assert sink.recorder.under_way == 0
    sink.recorder.flush()
    assert len(sink.opened) == len(sink.closed) == 1
    assert sink.closed[0].policy == "AuthorizationPolicy default/p rule[2]"
    assert sink.closed[0].dry_run == ("AuthorizationPolicy default/p rule[2]",)


def test_an_unknown_party_shows_what_its_certificate_says() -> None:
    identity = parse_spiffe_id("spiffe://cluster.local/ns/other/sa/bob")
    assert party(None, identity).identity == "cluster.local/ns/other/sa/bob"
    assert party(None, identity).namespace == "other"
    assert party(None).identity == ""


class Meter:
    """Something that moves bytes."""

    def __init__(self) -> None:
        self.bytes_out = self.bytes_in = 0


def test_bytes_of_open_connections_are_reported_once() -> None:
    sink = Sink()
    connection, meter = sink.begin(), Meter()
    sink.recorder.opened(connection)
    sink.recorder.watch(connection, meter, outbound=False)
    sink.recorder.report_progress()
    assert not sink.progress
    meter.bytes_in, meter.bytes_out = 100, 7
    sink.recorder.report_progress()
    sink.recorder.report_progress()
    assert [p[1:] for p in sink.progress] == [(100, 7, False)]
    (listed,) = sink.recorder.open_records()
    assert (listed.bytes_sent, listed.bytes_received) == (100, 7)
    end = End(reason=EndReason.PEER_RESET, bytes_out=10, bytes_in=150)
    sink.recorder.closed(connection, end, towards_destination=150)
    assert sink.recorder.under_way == 0
    record, *rest = sink.progress[1]
    assert rest == [50, 3, True]
    # The record has all of them; it is counted by what was reported, and not a second time.
    assert (record.bytes_sent, record.bytes_received) == (150, 10)
    assert record.flag is ResponseFlag.UPSTREAM_RESET
    sink.recorder.flush()
    assert (len(sink.opened), len(sink.closed)) == (1, 0)
    assert sink.pending == 1
