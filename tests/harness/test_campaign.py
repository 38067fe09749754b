"""Campaigns: every cell once, one lost with a crash, outcomes kept at once, nights that go on where they stopped."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from checkers.verdict import Valid
from harness import campaign as campaigns
from harness import cells as cells_of
from harness import summary
from harness.campaign import Campaign, Plan
from harness.cells import Cell, CellResult, run_cells
from harness.cli import call
from harness.mutants.catalog import MUTANTS
from harness.outcomes import Outcomes
from harness.settings import UsageProblem, resolve
from harness.standard import COMBINATIONS
from harness.worker import Answer

FAKE = "fake_runner:execute"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Workers find the fake runner; nothing of the environment's settings gets in."""
    for variable in os.environ:
        if variable.startswith("SUNDER_"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("FAKE_NOTES", str(tmp_path / "notes"))
    monkeypatch.setattr(cells_of, "EXECUTE", FAKE)
    return tmp_path


def plan(**content: Any) -> Plan:
    return campaigns.plan(content, name="night", source="night.yaml")


def refusal(**content: Any) -> str:
    with pytest.raises(UsageProblem) as caught:
        plan(**content)
    return str(caught.value)


def cells(*seeds: int, **flags: Any) -> list[Cell]:
    return [Cell(resolve({**flags, "seed": seed})) for seed in seeds]


def verdicts(results: list[CellResult]) -> dict[int | None, Valid]:
    return {r.cell.settings.seed: r.verdict for r in results}


def run_night(plan: Plan, *, resume: bool = False, stop_after: int | None = None) -> list[int | None]:
    """One night with one worker; returns the seeds in the order in which they came."""
    order: list[int | None] = []
    with (
        closing(Campaign(plan, resume=resume)) as running,
        closing(running.results(workers=1, execute=FAKE)) as each,
    ):
        for result in each:
            order.append(result.cell.settings.seed)
            if len(order) == stop_after:
                return order
        running.finish()
    return order


def whole_summary(plan: Plan, *, left: int = 0) -> summary.Summary:
    with closing(Outcomes(plan.folder / campaigns.DATABASE)) as outcomes:
        night = outcomes.last()
        assert night is not None
        return summary.summarise(plan.name, outcomes, night, left=left)


# The file


def test_every_axis_is_multiplied_with_every_other_and_with_the_seeds() -> None:
    p = plan(
        workloads=["cart", "set"],
        nemeses=["kill", ["kill", "pause"], "none"],
        settings=[{"w": 1}, {"w": 3}],
        seeds=4,
    )
    assert len(p.configurations) == 2 * 3 * 2
    assert len(p.cells()) == 48
    assert len({cell.key for cell in p.cells()}) == 48


def test_standard_is_every_standard_combination() -> None:
    p = plan(combinations="standard", seeds=1)
    assert [c.combination for c in p.configurations] == list(COMBINATIONS)


def test_a_mutant_of_which_nothing_else_is_said_runs_where_it_shows() -> None:
    configurations = plan(mutants="all", seeds=1).configurations
    assert {c.mutant: c.combination for c in configurations} == {
        m.name: m.combination for m in MUTANTS.values()
    }


def test_none_among_the_mutants_is_the_clean_store() -> None:
    configurations = plan(mutants=["none", "no-dots"], combinations="quiet", seeds=1).configurations
    assert [c.mutant for c in configurations] == [None, "no-dots"]


def test_a_short_budget_still_sees_every_configuration() -> None:
    p = plan(workloads=["cart", "set"], seeds=2)
    assert [(c.settings.workload, c.settings.seed) for c in p.cells()][:2] == [("cart", 1), ("set", 1)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"workload": "cart"}, "unknown key in night.yaml 'workload': did you mean 'workloads'?"),
        ({"workloads": ["kart"]}, "did you mean 'cart'?"),
        ({"combinations": ["strictt"]}, "did you mean 'strict'?"),
        ({"mutants": ["no-dot"]}, "did you mean 'no-dots'?"),
        ({"settings": [{"worklod": 1}]}, "did you mean 'workload'?"),
        ({"settings": ["w=1"]}, "settings cannot hold 'w=1'"),
        ({"settings": [{"seed": 1}]}, "seed cannot be set for a configuration"),
        ({"settings": [{"w": 9}]}, "w=9 answers cannot come from n=3"),
        ({"defaults": [1]}, "defaults must hold keys and values"),
        ({"seeds": "9..1"}, "seeds cannot be '9..1'"),
        ({"seeds": 0}, "seeds cannot be 0"),
        ({"seeds": []}, "seeds cannot be []"),
        ({"seeds": 10**9}, "at most 10000000"),
        ({"workloads": []}, "workloads is empty"),
        ({"budget": "soon"}, "budget cannot be 'soon'"),
        ({"workers": 0}, "workers cannot be 0"),
        ({"name": "../x"}, "cannot name a folder"),
    ],
)
def test_a_mistake_in_the_file_is_told_in_a_sentence(content: dict[str, Any], told: str) -> None:
    assert told in refusal(**content)


def test_a_cell_keeps_its_key_whatever_the_campaign_is_called_and_wherever_its_runs_go() -> None:
    (one,) = cells(1, name="a", runs="x")
    (two,) = cells(1, name="b", runs="y")
    (other,) = cells(1, name="a", runs="x", w=1)
    assert one.key == two.key != other.key
    assert one.label == two.label != other.label


# Workers


def test_every_cell_comes_back_once() -> None:
    found = list(run_cells(cells(1, 2, 3, 7, 8, 107), 2, execute=FAKE))
    assert verdicts(found) == {
        1: Valid.VALID,
        2: Valid.VALID,
        3: Valid.VALID,
        7: Valid.INVALID,
        8: Valid.UNKNOWN,
        107: Valid.INVALID,
    }
    assert {r.attempts for r in found} == {1}


def test_a_worker_imports_once_and_runs_many_cells(alone: Path) -> None:
    list(run_cells(cells(*range(20, 40)), 1, execute=FAKE))
    assert len({line.split()[0] for line in (alone / "notes").read_text().splitlines()}) == 1


def test_a_crash_costs_one_cell_which_is_tried_again() -> None:
    found = list(run_cells(cells(1, 14, 2), 1, execute=FAKE))
    assert verdicts(found) == {1: Valid.VALID, 2: Valid.VALID, 14: Valid.VALID}
    assert {r.cell.settings.seed: r.attempts for r in found}[14] == 2


def test_a_cell_that_always_crashes_its_worker_is_a_harness_error_with_its_last_words() -> None:
    found = list(run_cells(cells(1, 13, 2), 2, execute=FAKE))
    assert verdicts(found) == {1: Valid.VALID, 2: Valid.VALID, 13: Valid.HARNESS_ERROR}
    crashed = next(r for r in found if r.cell.settings.seed == 13)
    assert crashed.attempts == 2
    assert "last words" in crashed.answer.error


def test_an_exception_is_a_harness_error_with_its_traceback() -> None:
    (broken,) = run_cells(cells(9), 1, execute=FAKE)
    assert broken.verdict is Valid.HARNESS_ERROR
    assert "RuntimeError: the harness tripped" in broken.answer.error


def test_a_worker_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells_of, "GRACE_SECONDS", 0.0)
    found = list(run_cells(cells(16, 1, time="1s", recovery_time="0s"), 1, execute=FAKE))
    assert verdicts(found) == {16: Valid.HARNESS_ERROR, 1: Valid.VALID}


def test_cells_outside_the_simulator_run_one_after_another(alone: Path) -> None:
    docker = cells(21, 22, 23, world="docker")
    found = list(run_cells([*docker, *cells(1, 2)], 3, execute=FAKE))
    assert len(found) == 5
    lines = (alone / "notes").read_text().splitlines()
    assert [
        line.split()[1] for line in lines if line.split()[1].startswith("2") and len(line.split()[1]) == 2
    ] == [
        "21",
        "22",
        "23",
    ]


def test_closing_the_iterator_stops_the_workers(alone: Path) -> None:
    running = run_cells(cells(*range(100, 106)), 1, execute=FAKE)
    next(running)
    running.close()
    process = int((alone / "notes").read_text().split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_no_cell_begins_after_the_budget() -> None:
    assert list(run_cells(cells(1, 2), 1, execute=FAKE, go_on=lambda: False)) == []


def test_passing_cells_leave_a_row_and_failing_ones_a_folder() -> None:
    p = plan(seeds="5..8")
    run_night(p)
    kept = [path.name for path in (p.folder / "cart").iterdir()]
    assert len(kept) == 1
    assert kept[0].endswith("-7")
    assert (p.folder / "cart" / kept[0] / "report.html").is_file()


# Nights


def test_a_stopped_night_goes_on_where_it_stopped() -> None:
    p = plan(seeds=5)
    assert run_night(p, stop_after=2) == [1, 2]
    assert run_night(p, resume=True) == [3, 4, 5]
    assert run_night(p, resume=True) == []
    assert whole_summary(p).counts[Valid.VALID] == 5


def test_a_new_night_runs_everything_again_and_yesterdays_failures_first() -> None:
    p = plan(seeds=[1, 2, 7, 3, 107])
    assert run_night(p) == [1, 2, 7, 3, 107]
    assert run_night(p) == [7, 107, 1, 2, 3]
    assert whole_summary(p).night.id == 2


def test_kill_9_loses_the_cell_in_flight_and_no_other(alone: Path) -> None:
    (alone / "night.yaml").write_text("seeds: [1, 2, 3, 16, 4]\n")
    script = (
        "import harness.cells as c; c.EXECUTE = 'fake_runner:execute';"
        "from harness.cli import call; call(['campaign', 'night.yaml', '--workers', '1', '--json'])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    )
    assert child.stdout is not None
    try:
        told = [json.loads(child.stdout.readline())["seed"] for _ in range(3)]
        wait_for(lambda: "16" in (alone / "notes").read_text().split())
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    # The worker outlives its campaign only for the cell that it has; this one would never end.
    os.kill(int((alone / "notes").read_text().splitlines()[-1].split()[0]), signal.SIGKILL)
    assert told == [1, 2, 3]
    assert run_night(plan(seeds=[1, 2, 3, 4]), resume=True) == [4]


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_ends_when_its_campaign_was_killed() -> None:
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "harness.worker", FAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    out, _ = worker.communicate(b"", timeout=30)
    assert (worker.returncode, out) == (0, b"")


def test_another_file_in_the_place_of_the_outcomes_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "campaign.sqlite").write_bytes(b"this is no database at all, whatever it may be" * 9)
    with pytest.raises(UsageProblem, match="is no campaign's file"):
        Outcomes(tmp_path / "campaign.sqlite")


def test_outcomes_of_another_version_are_told_in_a_sentence(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "campaign.sqlite")) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(UsageProblem, match="has version 99"):
        Outcomes(tmp_path / "campaign.sqlite")


# What a night comes to


def record(outcomes: Outcomes, night: Any, cell: Cell, verdict: Valid, *fingerprints: str) -> None:
    answer = Answer(verdict=verdict, sentence=f"it is {verdict}", fingerprints=fingerprints)
    outcomes.record(night, CellResult(cell, answer))


def test_failures_are_grouped_by_fingerprint_with_when_they_were_first_seen(tmp_path: Path) -> None:
    with closing(Outcomes(tmp_path / "campaign.sqlite")) as outcomes:
        good = outcomes.begin("2024-01-01", "aaa", 2)
        for cell in cells(1, 2):
            record(outcomes, good, cell, Valid.VALID)
        bad = outcomes.begin("2024-01-02", "bbb", 2)
        record(outcomes, bad, cells(1)[0], Valid.INVALID, "lost_writes/lost/kill")
        record(outcomes, bad, cells(2)[0], Valid.VALID)
        again = outcomes.begin("2024-01-03", "ccc", 2)
        for cell in cells(1, 2):
            record(outcomes, again, cell, Valid.INVALID, "lost_writes/lost/kill")
        (group,) = summary.summarise("night", outcomes, again, left=0).groups
    assert (group.fingerprint, len(group.cells), group.ran) == ("lost_writes/lost/kill", 2, 2)
    assert group.first_seen is not None
    assert group.last_good is not None
    assert (group.first_seen.revision, group.last_good.revision) == ("bbb", "aaa")


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        ([Valid.VALID], 0),
        ([Valid.VALID, Valid.UNKNOWN], 2),
        ([Valid.UNKNOWN, Valid.HARNESS_ERROR], 255),
        ([Valid.HARNESS_ERROR, Valid.INVALID, Valid.VALID], 1),
        ([], 2),
    ],
)
def test_a_nights_exit_code_is_its_worst_cells(tmp_path: Path, seen: list[Valid], code: int) -> None:
    with closing(Outcomes(tmp_path / "campaign.sqlite")) as outcomes:
        night = outcomes.begin("2024-01-01", None, len(seen))
        for cell, verdict in zip(cells(*range(len(seen))), seen, strict=True):
            record(outcomes, night, cell, verdict)
        assert summary.summarise("night", outcomes, night, left=0).exit_code == code


@pytest.mark.parametrize(
    ("seen", "left", "code", "tag"),
    [
        ([Valid.VALID, Valid.INVALID], 0, 0, None),
        ([Valid.VALID, Valid.VALID], 0, 1, "failure"),
        ([Valid.VALID], 1, 2, "skipped"),
        ([Valid.VALID, Valid.HARNESS_ERROR], 0, 255, "error"),
    ],
    ids=["found", "not found", "not found yet", "broken"],
)
def test_a_planted_bug_is_meant_to_be_found(
    tmp_path: Path, seen: list[Valid], left: int, code: int, tag: str | None
) -> None:
    with closing(Outcomes(tmp_path / "campaign.sqlite")) as outcomes:
        night = outcomes.begin("2024-01-01", None, len(seen) + left)
        for cell, verdict in zip(cells(*range(len(seen)), mutant="no-dots"), seen, strict=True):
            record(outcomes, night, cell, verdict)
        whole = summary.summarise("night", outcomes, night, left=left)
        cases = ElementTree.fromstring(summary.xml(whole, outcomes))[0].findall("testcase")
    assert len(cases) == len(seen) + 1
    (case,) = [case for case in cases if case.get("classname") == "planted bugs"]
    assert whole.exit_code == code
    assert whole.groups == ()
    assert case.get("name") == "no-dots is found"
    assert [child.tag for child in case if child.tag != "system-out"] == ([tag] if tag else [])


@pytest.mark.parametrize("folded", [False, True])
def test_the_cells_of_the_headline_and_of_junit_are_those_that_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folded: bool
) -> None:
    if folded:
        monkeypatch.setattr(summary, "CASES_MAX", 5)
    with closing(Outcomes(tmp_path / "campaign.sqlite")) as outcomes:
        night = outcomes.begin("2024-01-01", None, 7)
        for cell in cells(1, 2, 3):
            record(outcomes, night, cell, Valid.VALID)
        planted = (Valid.INVALID, Valid.INVALID, Valid.VALID, Valid.UNKNOWN)
        for cell, verdict in zip(cells(1, 2, 3, 4, mutant="no-dots"), planted, strict=True):
            record(outcomes, night, cell, verdict)
        whole = summary.summarise("night", outcomes, night, left=0)
        suite = ElementTree.fromstring(summary.xml(whole, outcomes))[0]
    head = summary.markdown(whole).splitlines()[0]
    assert head == (
        "# night: 3 cells of the clean store: 3 valid; 4 cells of planted bugs: 1 of 1 planted bug found"
    )
    # A cell that finds its bug passes; one that does not proves nothing.
    told = {
        (case.get("classname", ""), case.get("name")): [c.tag for c in case if c.tag != "system-out"]
        for case in suite.findall("testcase")
    }
    clean, mutant = (cell.label for cell in (*cells(1), *cells(1, mutant="no-dots")))
    passed, skipped = list[str](), ["skipped"]
    assert told == {
        ("planted bugs", "no-dots is found"): passed,
        (mutant, "seed 4"): skipped,
        **(
            {
                (clean, "3 seeds"): passed,
                (mutant, "2 seeds"): passed,
                (mutant, "1 seeds that do not find it"): skipped,
            }
            if folded
            else {
                **{(clean, f"seed {seed}"): passed for seed in (1, 2, 3)},
                **{(mutant, f"seed {seed}"): passed for seed in (1, 2)},
                (mutant, "seed 3"): skipped,
            }
        ),
    }


def test_the_first_run_that_found_a_planted_bug_is_named_in_the_summary(tmp_path: Path) -> None:
    with closing(Outcomes(tmp_path / "campaign.sqlite")) as outcomes:
        night = outcomes.begin("2024-01-01", None, 2)
        for cell in cells(4, 3, mutant="no-dots"):
            answer = Answer(verdict=Valid.INVALID, sentence="lost", folder=f"runs/x/{cell.settings.seed}")
            outcomes.record(night, CellResult(cell, answer))
        text = summary.markdown(summary.summarise("night", outcomes, night, left=0))
    assert "| no-dots | 2 of 2 | 3 | runs/x/3 |" in text


def test_a_night_cut_by_its_budget_says_so_and_is_no_pass(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake(monkeypatch)
    (alone / "night.yaml").write_text("seeds: [1, 2]\n")
    assert call(["campaign", "night.yaml", "--budget", "0.000001s", "--workers", "1"]) == 2
    assert "the budget is spent and 2 cells were not run" in capsys.readouterr().err
    assert call(["campaign", "night.yaml", "--workers", "1"]) == 0
    assert "night 1 was left with 2 cells not run" in capsys.readouterr().err
    assert call(["campaign", "night.yaml", "--workers", "1"]) == 0
    assert "was left with" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("combinations: standart", "did you mean 'standard'?"),
        ("combinations: [quiet, strikt]", "did you mean 'strict'?"),
        ("mutants: al", "did you mean 'all'?"),
    ],
)
def test_a_misspelt_name_in_a_campaign_file_is_told_with_the_file(
    alone: Path, capsys: pytest.CaptureFixture[str], line: str, told: str
) -> None:
    (alone / "night.yaml").write_text(line + "\n")
    assert call(["campaign", "night.yaml", "--dry-run"]) == 254
    err = capsys.readouterr().err
    assert told in err
    assert "night.yaml" in err


def test_the_summary_stays_below_a_mebibyte_with_failures_first(tmp_path: Path) -> None:
    with closing(Outcomes(tmp_path / "campaign.sqlite")) as outcomes:
        night = outcomes.begin("2024-01-01", None, 6_000)
        outcomes.connection.execute("BEGIN")
        outcomes.connection.commit()
        for number in range(3_000):
            (cell,) = cells(number, keys=number + 1)
            record(outcomes, night, cell, Valid.INVALID, f"lost_writes/{number}/" + "kill" * 200)
        text = summary.markdown(summary.summarise("night", outcomes, night, left=3_000))
    assert len(text.encode()) < 1 << 20
    assert text.index("lost_writes/") < text.index("Configurations")
    assert "sunder run --keys 1 --seed 0" in text


def test_the_command_tells_groups_and_where_the_summaries_are(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake(monkeypatch)
    (alone / "night.yaml").write_text("seeds: 5..9\nnemeses: kill\n")
    assert call(["campaign", "night.yaml", "--workers", "2"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "night: 5 cells: 1 invalid, 1 harness-error, 1 unknown, 2 valid"
    assert "    lost_writes/lost/kill: 1 of 5, such as\n        sunder run --nemesis kill --seed 7\n" in out
    assert "harness-error: " in err
    suite = ElementTree.parse("runs/night/junit.xml").getroot()[0]
    assert [suite.get(k) for k in ("tests", "failures", "errors", "skipped")] == ["5", "1", "1", "1"]
    assert (
        "seed 7" in Path("runs/night/summary.md").read_text()
        or "--seed 7" in Path("runs/night/summary.md").read_text()
    )


def use_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Campaign.results

    def results(self: Campaign, **more: Any) -> Any:
        return original(self, **more, execute=FAKE)

    monkeypatch.setattr(Campaign, "results", results)


def test_a_budget_that_is_spent_leaves_the_rest_for_resume(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake(monkeypatch)
    (alone / "night.yaml").write_text("seeds: 3\n")
    monkeypatch.setattr(campaigns, "deadline", lambda seconds: lambda: seconds is None)
    assert call(["campaign", "night.yaml", "--budget", "1h"]) == 2
    assert "3 not run yet" in capsys.readouterr().out
    assert call(["campaign", "night.yaml", "--resume", "--json", "--workers", "1"]) == 0
    assert [json.loads(line)["seed"] for line in capsys.readouterr().out.splitlines()] == [1, 2, 3]


def test_ctrl_c_exits_130_and_says_how_to_go_on(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Campaign, **more: Any) -> Any:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(Campaign, "results", interrupted)
    (alone / "night.yaml").write_text("seeds: 3\n")
    assert call(["campaign", "night.yaml"]) == 130
    assert "`sunder campaign night.yaml --resume` goes on" in capsys.readouterr().err


def test_dry_run_prints_the_cells_and_writes_nothing(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (alone / "night.yaml").write_text("seeds: 2\ncombinations: quiet\n")
    assert call(["campaign", "night.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out == "combination=quiet  seed 1\ncombination=quiet  seed 2\n"
    assert not Path("runs").exists()
