"""One whole run: its phases, its promises, its failures, and that it can be had again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from checkers.verdict import Valid
from harness import runner
from harness.report import render
from harness.settings import Settings, resolve
from harness.systems.dynamo import guarantees
from history.history import History
from history.journal import read
from history.op import Op
from history.recorder import Recorder
from workloads import WORKLOADS
from workloads.register import Register


def settings(**more: object) -> Settings:
    return resolve(
        {"workload": "register", "time": "4s", "nemesis_interval": "1s", "rate": 50, "seed": 5, **more}
    )


@pytest.fixture(scope="module")
def outcome() -> runner.Outcome:
    return runner.execute(settings())


def test_a_run_goes_through_safety_heal_recovery_and_final_in_this_order(outcome: runner.Outcome) -> None:
    assert list(outcome.history.phases) == ["safety", "heal", "recovery", "final"]
    assert sorted(outcome.history.phases.values()) == list(outcome.history.phases.values())


def test_every_node_is_looked_at_alone_before_any_key_is_read_and_again_afterwards(
    outcome: runner.Outcome,
) -> None:
    history = outcome.history
    quiet = [o.index for o in history.observed("replica", "quiet")]
    reads = [o.index for o in history.client if o.invoke.meta.get("final")]
    after = [o.index for o in history.observed("replica", "read")]
    assert len(quiet) == len(after) == 5
    assert max(quiet) < min(reads)
    assert max(reads) < min(after)
    assert {o.key for o in history.client if o.invoke.meta.get("final") and o.type == "ok"} == {
        f"k{i}" for i in range(10)
    }


def test_hints_are_looked_at_before_replicas_lest_one_be_delivered_in_between(
    outcome: runner.Outcome,
) -> None:
    looks = [o for o in outcome.history.observations if o.meta.get("stage") == "quiet"]
    assert [o.f for o in looks] == ["hints"] * 5 + ["replica"] * 5


def test_the_faults_of_a_run_are_those_that_a_dry_run_prints(outcome: runner.Outcome) -> None:
    planned = [msgspec.json.decode(msgspec.json.encode(t.fault)) for t in runner.faults_of(settings(), 5)]
    healed = outcome.history.phases["heal"]
    assert [o.invoke.value for o in outcome.history.nemesis if o.index < healed] == planned


def test_the_progress_line_counts_what_clients_asked_for_as_the_report_does() -> None:
    """A cart's operation holds store requests inside, which nobody asked for by themselves."""
    said: list[runner.Progress] = []
    outcome = runner.execute(settings(workload="cart", nemesis="none"), progress=said.append)
    asked = [o for o in outcome.history.client if o.parent is None and isinstance(o.process, int)]
    assert said[-1].ok + said[-1].fail + said[-1].info == len(asked)
    html = render(outcome.history, outcome.verdicts, {}, title="t", command="")
    assert f'>operations</span><span class="value">{len(asked):,}<' in html


def test_no_wall_time_and_no_path_stands_in_the_header(outcome: runner.Outcome) -> None:
    line = outcome.journal.split(b"\n", 1)[0]
    assert b"/" not in line.replace(b"chain/", b"")
    assert b"20" + b"26" not in line


def test_a_schedule_runs_again_byte_for_byte(outcome: runner.Outcome) -> None:
    again = runner.replay(outcome.schedule, settings())
    assert again.journal == outcome.journal
    assert again.trace == outcome.trace is not None


def test_what_is_journaled_into_a_folder_is_what_would_be_kept_in_memory(
    outcome: runner.Outcome, tmp_path: Path
) -> None:
    in_folder = runner.execute(settings(), tmp_path)
    assert (tmp_path / "history.jsonl").read_bytes() == in_folder.journal == outcome.journal
    assert read(tmp_path / "history.jsonl").events == outcome.history.events


def test_in_lww_mode_losses_of_the_set_are_measured_and_not_condemned() -> None:
    outcome = runner.execute(resolve({"combination": "lww", "seed": 1}))
    measured = next(v for v in outcome.verdicts if v.checker == "set_full")
    assert not measured.judged
    assert measured.valid is Valid.INVALID
    assert outcome.verdict is Valid.VALID


def test_a_client_that_raises_makes_the_run_a_harness_error_and_the_rest_is_still_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(Register):
        def client(self, connection: object, process: object, options: object) -> object:
            client = super().client(connection, process, options)  # pyright: ignore
            sound = client.invoke

            async def invoke(op: Op, recorder: Recorder) -> Op:
                if op.f == "put" and op.value > 150:
                    raise ValueError("a bug of the workload")
                return await sound(op, recorder)

            client.invoke = invoke  # type: ignore[method-assign]
            return client

    monkeypatch.setitem(WORKLOADS, "register", Broken())  # pyright: ignore
    outcome = runner.execute(settings())
    assert outcome.verdict is Valid.HARNESS_ERROR
    assert "a bug of the workload" in outcome.sentence
    assert {v.checker: v.valid for v in outcome.verdicts}["lost_writes"] is Valid.VALID


def test_a_run_that_ends_before_any_fault_could_bite_is_unknown() -> None:
    outcome = runner.execute(settings(time="1s", nemesis_interval="60s"))
    assert outcome.verdict is Valid.UNKNOWN
    assert "inert" in outcome.sentence


def test_without_faults_nothing_is_asked_of_them() -> None:
    outcome = runner.execute(settings(nemesis="none"))
    assert outcome.verdict is Valid.VALID
    assert outcome.history.nemesis == ()


def test_a_history_cut_off_in_the_middle_of_a_run_is_no_valid_one(outcome: runner.Outcome) -> None:
    events = [e for e in outcome.history.events if e.index < outcome.history.phases["heal"]]
    verdict, _, _ = runner.judge(History(outcome.history.header, events))
    assert verdict is Valid.UNKNOWN


@pytest.mark.parametrize(
    ("more", "after"),
    [
        ({}, "anti-entropy"),
        ({"read_repair": "off", "hinted_handoff": False}, "anti-entropy"),
        ({"anti_entropy": False}, "full-read"),
        ({"anti_entropy": False, "read_repair": "off", "nemesis": "partition,pause"}, "handoff"),
        ({"anti_entropy": False, "read_repair": "off", "nemesis": "partition,kill"}, "delivery"),
        (
            {"anti_entropy": False, "read_repair": "off", "nemesis": "partition", "hinted_handoff": False},
            "delivery",
        ),
    ],
)
def test_convergence_is_promised_only_after_what_brings_it_about(more: dict[str, object], after: str) -> None:
    assert guarantees(settings(**more))["convergence"]["after"] == after


def test_a_store_in_lww_mode_promises_no_causality_and_less_where_clocks_differ() -> None:
    assert guarantees(settings(mode="lww", nemesis="kill"))["lost_writes"] == "lww"
    assert guarantees(settings(mode="lww", nemesis="clock"))["lost_writes"] == "lww-skewed"
    assert "siblings" not in guarantees(settings(mode="lww"))


@pytest.mark.parametrize(
    ("more", "promised"),
    [
        ({}, False),  # R + W > N, yet a sloppy quorum may be anywhere
        ({"sloppy": False}, True),
        ({"hinted_handoff": False}, True),
        ({"sloppy": False, "r": 1}, False),
        ({"pr": 2, "pw": 2}, True),
        ({"pr": 1, "pw": 2}, False),
        ({"workload": "sessions"}, True),  # for those requests whose own quorum overlaps
        ({"sloppy": False, "mode": "lww"}, False),
    ],
)
def test_sessions_are_promised_where_home_replicas_of_reads_and_writes_overlap(
    more: dict[str, object], promised: bool
) -> None:
    assert ("sessions" in guarantees(settings(**more))) is promised
