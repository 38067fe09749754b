"""The command as users start it, in the simulator, with nothing replaced: verdicts, repetition, interruption, sudden death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

SUNDER = [sys.executable, "-m", "harness"]
RED = ["run", "--mutant", "no-dots", "--combination", "quiet", "--time", "3s", "--seed", "1"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    bare = {k: v for k, v in os.environ.items() if not k.startswith("SUNDER_")}
    return {**bare, "TMPDIR": more.pop("TMPDIR", tempfile.gettempdir()), **more}


def sunder(place: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SUNDER, *words], cwd=place, env=environment(**more), capture_output=True, text=True, check=False
    )


def begin(place: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    """Starts a long run and waits until it has written half a thousand events."""
    child = subprocess.Popen(
        [*SUNDER, *words],
        cwd=place,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    journal = place / "runs" / "latest" / "history.jsonl"
    deadline = time.monotonic() + 120
    try:
        while not (journal.exists() and journal.stat().st_size > 50_000):
            assert child.poll() is None, "it ended before it was meant to"
            assert time.monotonic() < deadline, "it wrote too little"
            time.sleep(0.02)
    except AssertionError:
        child.kill()
        print(child.communicate())
        raise
    return child


def outcome(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return json.loads(done.stdout)


def test_a_seed_gives_the_same_bytes_whatever_the_hash_seed(place: Path) -> None:
    words = ["run", "--combination", "cart", "--time", "3s", "--seed", "4", "--json"]
    one = outcome(sunder(place, *words, PYTHONHASHSEED="1"))
    two = outcome(sunder(place, *words, PYTHONHASHSEED="2"))
    assert one["path"] != two["path"]
    for file in ("history.jsonl", "schedule.json", "results.json"):
        assert (place / one["path"] / file).read_bytes() == (place / two["path"] / file).read_bytes()


def test_the_name_of_a_run_changes_nothing_but_its_header(place: Path) -> None:
    one = outcome(sunder(place, "run", "--time", "1s", "--seed", "4", "--json", "--name", "a"))
    two = outcome(
        sunder(place, "run", "--time", "1s", "--seed", "4", "--json", "--name", "b", "--runs", "other")
    )
    first, second = ((place / o["path"] / "history.jsonl").read_bytes().splitlines() for o in (one, two))
    assert first[0] != second[0]
    assert first[1:] == second[1:]


def test_a_planted_bug_ends_red_with_a_witness_and_is_reproduced(place: Path) -> None:
    red = sunder(place, *RED)
    assert red.returncode == 1
    assert red.stdout.startswith("INVALID  siblings: ")
    witness = [
        line for line in red.stdout.splitlines() if line.startswith("    ") and "->" in line and "-" in line
    ]
    assert 1 <= len([line for line in witness if line.split()[0].isdigit()]) <= 8
    again = sunder(place, "replay", "runs/latest")
    assert again.returncode == 0
    assert again.stdout.startswith("REPRODUCED  byte for byte  ")


def test_the_command_that_a_red_run_prints_repeats_it(place: Path) -> None:
    red = sunder(place, *RED)
    command = next(line.split(maxsplit=1)[1] for line in red.stdout.splitlines() if line.startswith("repeat"))
    again = sunder(place, *command.split()[1:])
    assert again.stdout.splitlines()[0] == red.stdout.splitlines()[0]


def test_a_red_run_stays_red_when_its_saved_history_is_checked_by_the_clean_store(place: Path) -> None:
    sunder(place, *RED)
    assert sunder(place, "check", "runs/latest").returncode == 1


def test_a_planted_bug_leaves_no_copy_behind(place: Path) -> None:
    (place / "tmp").mkdir()
    sunder(place, *RED, TMPDIR=str(place / "tmp"))
    assert list((place / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_writes_what_there_is(place: Path, number: signal.Signals) -> None:
    child = begin(place, "run", "--time", "10m", "--seed", "1")
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "Traceback" not in err
    assert "destroyed" not in err and "never awaited" not in err
    assert "Interrupted after" in out
    results = json.loads((place / "runs/latest/results.json").read_text())
    assert results["verdict"] in ("unknown", "invalid")
    if any(v["judged"] and v["valid"] == "valid" for v in results["results"]):
        assert "nothing was decided" not in out
    assert (place / "runs/latest/schedule.json").is_file()


def test_an_interrupted_planted_bug_ends_as_well_and_leaves_no_copy_behind(place: Path) -> None:
    (place / "tmp").mkdir()
    child = begin(
        place, "run", "--mutant", "hint-pop-first", "--time", "10m", "--seed", "1", TMPDIR=str(place / "tmp")
    )
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 130
    assert list((place / "tmp").iterdir()) == []


def test_the_history_of_a_run_that_was_killed_can_be_judged(place: Path) -> None:
    child = begin(place, "run", "--time", "10m", "--seed", "1")
    child.kill()
    child.communicate()
    judged = sunder(place, "check", "--json", "runs/latest")
    assert judged.returncode in (0, 1, 2), judged.stderr
    assert outcome(judged)["verdict"] == "unknown"


def test_a_run_in_the_simulator_loads_no_docker(place: Path) -> None:
    script = (
        "import sys; from harness.cli import call; call(['run', '--time', '1s', '--nemesis', 'none', '--seed', '1'])\n"
        "print(sorted({'docker', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=place,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_dry_run_prints_the_faults_that_the_run_then_asks_for(place: Path) -> None:
    words = ["run", "--nemesis", "kill,pause", "--time", "10s", "--nemesis-interval", "2s", "--seed", "5"]
    plan = sunder(place, *words, "--dry-run").stdout.splitlines()
    assert not (place / "runs").exists()
    sunder(place, *words)
    schedule = json.loads((place / "runs/latest/schedule.json").read_text())
    asked = [(f["time"], f["fault"]["fault"]) for f in schedule["faults"]]
    assert [line.split()[2] for line in plan] == [tag for _, tag in asked]
    assert len(plan) > 3


def test_a_campaign_in_the_simulator_finds_the_planted_bug_and_passes_the_clean_store(place: Path) -> None:
    (place / "night.yaml").write_text(
        "combinations: quiet\nmutants: [none, no-dots]\nseeds: 3\ndefaults: {time: 2s}\nworkers: 2\n"
    )
    done = sunder(place, "campaign", "night.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 planted bug found" in done.stdout
    assert "mutant no-dots: found in 3 of 3, first by seed 1" in done.stdout
