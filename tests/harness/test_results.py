"""Run folders: what is in them, that no two runs share one, and that they read back."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import msgspec
import pytest

from checkers.verdict import Valid, Verdict
from harness import junit, results
from harness.results import Results, Saved
from harness.settings import Settings, UsageProblem, resolve
from history.header import Header

NOON = datetime(2024, 5, 6, 12, 0, 0, tzinfo=UTC)


def finished(fake: ModuleType, seed: int, runs: str = "runs") -> tuple[Path, Settings]:
    settings = resolve({"seed": seed, "runs": runs})
    folder = results.create(Path(runs), settings.title, seed, NOON)
    results.begin(folder, settings, {"revision": "abc"})
    outcome = fake.execute(settings)
    command = results.command_of(settings)
    found = results.finish(folder, settings, outcome, environment={"revision": "abc"}, command=command)
    results.report(folder, outcome.history, found, outcome.logs, command=command)
    return folder, settings


def test_a_finished_run_leaves_these_files_and_no_others(fake: ModuleType) -> None:
    folder, _ = finished(fake, 7)
    assert sorted(p.name for p in folder.iterdir()) == [
        "environment.json",
        "history.jsonl",
        "junit.xml",
        "nodes",
        "report.html",
        "repro.sh",
        "results.json",
        "schedule.json",
        "settings.json",
    ]
    assert (folder / "nodes" / "n1.log").read_text() == "started\n"


def test_a_folder_is_named_by_utc_time_and_seed_and_latest_points_to_it(fake: ModuleType) -> None:
    folder, _ = finished(fake, 7)
    assert str(folder) == "runs/cart/20240506T120000Z-7"
    assert os.readlink("runs/latest") == "cart/20240506T120000Z-7"


def test_two_runs_of_one_second_and_seed_get_two_folders(fake: ModuleType) -> None:
    first, _ = finished(fake, 7)
    second, _ = finished(fake, 7)
    assert second.name == f"{first.name}-2"
    assert (first / "history.jsonl").read_bytes() == (second / "history.jsonl").read_bytes()
    assert Path("runs/latest").resolve() == second.resolve()


def test_a_folder_reads_back_as_it_was_written(fake: ModuleType) -> None:
    folder, settings = finished(fake, 7)
    saved = results.read(Path("runs/latest"))
    assert isinstance(saved, Saved)
    assert saved.settings == msgspec.structs.replace(settings, runs="runs")
    assert saved.results is not None
    assert saved.results.verdict is Valid.INVALID
    assert saved.results.fingerprints == ("lost_writes/lost/clock+kill+partition+pause",)
    assert saved.results.results[0].anomalies[0].witness == (0, 2)
    assert saved.environment["duration_seconds"] == 0.25
    assert results.read(folder / "history.jsonl").folder == folder


def test_a_run_that_was_cut_off_reads_back_without_results(fake: ModuleType) -> None:
    folder = results.create(Path("runs"), "cart", 1, NOON)
    results.begin(folder, resolve({"seed": 1}), {})
    assert results.read(folder).results is None


@pytest.mark.parametrize("file", ["settings.json", "results.json", "environment.json"])
def test_a_damaged_folder_is_told_in_a_sentence(fake: ModuleType, file: str) -> None:
    folder, _ = finished(fake, 1)
    (folder / file).write_bytes(b"\x00{")
    with pytest.raises(UsageProblem, match=f"{file} cannot be read"):
        results.read(folder)


def test_the_repro_script_runs_and_repeats_the_run(fake: ModuleType, tmp_path: Path) -> None:
    folder, _ = finished(fake, 7)
    script = folder / "repro.sh"
    assert os.access(script, os.X_OK)
    # A stand-in for the command shows what the script would start, and in which environment.
    (tmp_path / "sunder").write_text('#!/bin/sh\necho "$@ ${SUNDER_TIME-unset}"\n')
    (tmp_path / "sunder").chmod(0o755)
    done = subprocess.run(
        [script, "--json"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SUNDER_TIME": "5s"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "run --seed 7 --json unset\n"


def test_a_write_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results.json"
    results.put(file, "old")

    def full(path: Path, mode: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "chmod", full)
    with pytest.raises(OSError, match="no space"):
        results.put(file, "new")
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_discarded_run_gives_latest_back(fake: ModuleType) -> None:
    first, _ = finished(fake, 1)
    second = results.create(Path("runs"), "cart", 2, NOON)
    results.discard(Path("runs"), second)
    assert not second.exists()
    assert Path("runs/latest").resolve() == first.resolve()


def test_a_file_called_latest_is_left_alone(fake: ModuleType) -> None:
    Path("runs").mkdir()
    Path("runs/latest").write_text("mine")
    finished(fake, 1)
    assert Path("runs/latest").read_text() == "mine"


def test_a_runs_directory_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UsageProblem, match="choose another --runs"):
        results.create(tmp_path / "runs", "cart", 1, NOON)


def test_a_fingerprint_is_checker_anomaly_and_fault_class() -> None:
    header = Header(families=("pause", "kill"))
    bad = Verdict(checker="siblings", valid=Valid.INVALID)
    measured = Verdict(checker="cart", valid=Valid.INVALID, judged=False)
    assert results.fingerprints(header, [bad, measured]) == ("siblings/invalid/kill+pause",)


def test_junit_tells_failure_error_and_skipped_apart() -> None:
    cases = [junit.Case(group="g", name=v, verdict=v, message=f"why {v}") for v in Valid]
    suite = ElementTree.fromstring(junit.render("night", cases))[0]
    assert {k: suite.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    tags = {case.get("name"): [child.tag for child in case] for case in suite}
    assert tags == {"valid": [], "invalid": ["failure"], "unknown": ["skipped"], "harness-error": ["error"]}


def test_junit_survives_text_that_xml_cannot_hold() -> None:
    page = junit.render(
        "a\x00b", [junit.Case(group="<&>", name="\ud800", verdict=Valid.INVALID, text="\x1b[31m")]
    )
    suite = ElementTree.fromstring(page)[0]
    assert (suite.get("name"), suite[0].get("classname"), suite[0][0].text) == (
        "a\ufffdb",
        "<&>",
        "\ufffd[31m",
    )


def test_a_runs_junit_has_a_case_for_each_checker(fake: ModuleType) -> None:
    folder, _ = finished(fake, 7)
    suite = ElementTree.parse(folder / "junit.xml").getroot()[0]
    assert [(c.get("name"), [e.tag for e in c]) for c in suite] == [
        ("run", ["system-out"]),
        ("lost_writes", ["failure"]),
        ("availability", ["system-out"]),
    ]


def test_results_hold_no_time_and_no_path(fake: ModuleType) -> None:
    one, _ = finished(fake, 7, runs="one")
    two, _ = finished(fake, 7, runs="two")
    for file in ("history.jsonl", "schedule.json", "results.json"):
        assert (one / file).read_bytes() == (two / file).read_bytes()


def test_results_decode_strictly() -> None:
    assert msgspec.json.decode(
        msgspec.json.encode(Results(verdict=Valid.VALID, sentence="", seed=1)), type=Results
    )
