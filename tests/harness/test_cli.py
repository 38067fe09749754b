"""The command line: exit codes, one sentence for every mistake, results on standard output and all else elsewhere."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import docker.errors
import msgspec
import pytest
import requests

from harness import doctor as doctors
from harness import reference, results, screen
from harness.cli import call, cli
from harness.commands import replay, run
from harness.docker import doctor as docker_doctor
from harness.docker import image
from harness.mutants.apply import Variant
from harness.settings import known_names, resolve
from harness.world import Support
from history.journal import read
from history.schedule import Schedule, TimedFault
from nemeses.fault import FAMILIES, Kill, ResetClocks, Skew

pytestmark = pytest.mark.usefixtures("fake")

LATEST = Path("runs/latest")


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """Everything that was said: one line on standard error, nothing on standard output."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(("seed", "code", "word"), [(1, 0, "VALID"), (7, 1, "INVALID"), (8, 2, "UNKNOWN")])
def test_a_run_ends_with_its_verdict_report_and_the_command_that_repeats_it(
    capsys: pytest.CaptureFixture[str], seed: int, code: int, word: str
) -> None:
    assert call(["run", "--seed", str(seed)]) == code
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith(f"{word}  ")
    assert f"repeat   sunder run --seed {seed}\n" in out
    report = next(line.split(maxsplit=1)[1] for line in out.splitlines() if line.startswith("report"))
    assert Path(report).is_file()
    assert f"seed {seed}" in err


def test_a_red_run_shows_its_witness(capsys: pytest.CaptureFixture[str]) -> None:
    call(["run", "--seed", "7"])
    out, _ = capsys.readouterr()
    assert "    lost_writes: write 1 of x was acknowledged and is not read" in out.splitlines()
    assert any("put" in line for line in out.splitlines()[2:])


def test_a_drawn_seed_is_printed_and_repeats_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # To the fake runner some seeds mean a crash or a hang: what is drawn is none of them.
    monkeypatch.setattr(secrets, "randbits", lambda bits: 4200)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    call(["run", "--json"])
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["seed"] == 4200
    assert outcome["command"] == "sunder run --seed 4200"


def test_json_is_one_line_and_nothing_else_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", "--seed", "7", "--json"]) == 1
    (outcome,) = lines(capsys.readouterr().out)
    assert (outcome["verdict"], outcome["seed"]) == ("invalid", 7)
    assert outcome["results"]["lost_writes"]["valid"] == "invalid"
    assert outcome["fingerprints"] == ["lost_writes/lost/clock+kill+partition+pause"]


def test_the_harness_failing_is_neither_the_users_nor_the_stores_fault(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(["run", "--seed", "9"]) == 255
    out, err = capsys.readouterr()
    assert out == ""
    assert "the harness tripped" in err
    assert not Path("runs").exists() or list(Path("runs").iterdir()) == []


def test_ctrl_c_writes_what_there_is_and_exits_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", "--seed", "15"]) == 130
    out, err = capsys.readouterr()
    assert "interrupted: writing what there is" in err
    assert out.startswith("UNKNOWN  Interrupted after 4 events")
    names = {p.name for p in LATEST.iterdir()}
    assert {"history.jsonl", "schedule.json", "results.json", "report.html", "environment.json"} <= names
    assert "Interrupted: this run was stopped before its end." in (LATEST / "report.html").read_text()


def test_a_run_that_was_interrupted_undecided_leaves_nothing_to_reproduce(
    capsys: pytest.CaptureFixture[str],
) -> None:
    call(["run", "--seed", "15", "--world", "docker"])
    assert "sunder replay" not in capsys.readouterr().out
    call(["run", "--seed", "15"])
    capsys.readouterr()
    assert call(["replay", str(LATEST)]) == 254
    told = one_sentence(capsys)
    assert "was interrupted before anything was decided" in told
    assert "`sunder run --seed 15` begins anew" in told


@pytest.mark.parametrize(
    ("seed", "told"),
    [(1, "mutant   no-dots is planted, and this run has not found it"), (7, "mutant   no-dots is planted")],
)
def test_a_run_of_a_planted_bug_says_so_whatever_its_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seed: int, told: str
) -> None:
    # As in the process that hosts the mutant.
    monkeypatch.setattr(run.apply, "current", lambda: Variant("no-dots", "abc", "."))
    call(["run", "--mutant", "no-dots", "--seed", str(seed)])
    assert told in capsys.readouterr().out.splitlines()


def test_nodes_that_were_left_running_are_told_with_their_addresses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    call(["run", "--seed", "1"])
    assert "running" not in capsys.readouterr().out
    environment = LATEST / "environment.json"
    content = {**json.loads(environment.read_text()), "addresses": {"n1": "http://172.30.0.2:8000"}}
    environment.write_text(json.dumps(content))
    saved = results.read(LATEST)
    assert saved.results is not None
    history = read(LATEST / "history.jsonl")
    run.tell(saved.folder, saved.settings, saved.results, history, "sunder run", as_json=False)
    assert "running  n1  http://172.30.0.2:8000" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("status", "code"), [(404, 254), (400, 254), (500, 255)])
def test_a_base_that_is_not_here_is_a_mistaken_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, status: int, code: int
) -> None:
    response = requests.Response()
    response.status_code = status
    kind = docker.errors.ImageNotFound if status == 404 else docker.errors.APIError

    class Engine:
        images = property(lambda self: self)

        def get(self, name: str) -> None:
            raise kind(f"nothing for {name}", response)

        def close(self) -> None:
            pass

    monkeypatch.setattr(image, "engine", Engine)
    assert call(["image", "--base", "nope:nope"]) == code
    assert ("No image nope:nope is here" in capsys.readouterr().err) == (code == 254)


def test_the_doctor_says_once_what_helps_where_there_is_no_engine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "No engine answers: start dockerd."
    supports = tuple(Support(family, remedy=missing) for family in FAMILIES)
    monkeypatch.setattr(docker_doctor, "examine", lambda: docker_doctor.Diagnosis(missing, "", supports))
    monkeypatch.setattr(doctors, "_simulator", lambda: ())
    call(["doctor"])
    out = capsys.readouterr().out
    assert out.count(missing) == 1
    assert out.count("see engine below") == len(FAMILIES)


def test_a_time_in_the_environment_is_heard_and_a_flag_beats_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUNDER_TIME", "5s")
    call(["run", "--seed", "1"])
    assert "--time 5s" in capsys.readouterr().out
    call(["run", "--seed", "1", "--time", "60s"])
    assert "--time 60s" in capsys.readouterr().out


def test_a_runs_settings_are_a_config_file(capsys: pytest.CaptureFixture[str]) -> None:
    call(["run", "--seed", "1", "--workload", "set", "--strict"])
    capsys.readouterr()
    call(["run", "--config", str(LATEST / "settings.json")])
    assert "repeat   sunder run --workload set --seed 1 --strict\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rum"], "unknown command 'rum': did you mean 'run'?"),
        (["run", "--nemsis", "kill"], "unknown option '--nemsis': did you mean '--nemesis'?"),
        (["check", "--jsn", "x"], "unknown option '--jsn': did you mean '--json'?"),
        (["--versio"], "unknown option '--versio': did you mean '--version'?"),
        (["run", "--workload", "kart"], "did you mean 'cart'?"),
        (["run", "--mutant", "no-dot"], "unknown mutant 'no-dot': did you mean 'no-dots'?"),
        (["run", "--mutant", "quux"], "unknown mutant 'quux': choose one of hint-pop-first, "),
        (["xyzzy"], "unknown command 'xyzzy': choose one of "),
        (["run", "--xyzzy", "1"], "unknown option '--xyzzy': see `sunder run --help`"),
        (["run", "--w", "4"], "w=4 answers cannot come from n=3"),
        (["run", "--time", "soon"], "500ms"),
        (["run", "--scene", "hot-key", "--combination", "cart"], "hot-key and the combination cart exclude"),
        (["run", "--config", "none.yaml"], "cannot read none.yaml"),
        (["run", "extra"], "unexpected extra argument"),
        (["run", "--nodes"], "requires an argument"),
        (["check"], "missing argument"),
        (["check", "--checker", "lost_write", "x"], "did you mean 'lost_writes'?"),
        (["replay", "nowhere"], "there is no nowhere"),
        (["replay", "."], "is no run folder"),
        (["report", "nowhere"], "there is no nowhere"),
        (["replay", "x", "--times", "0"], "0 is not in the range"),
        (["campaign", "none.yaml"], "cannot read none.yaml"),
        (["image", "--base", "a", "--bootstrap"], "exclude each other"),
    ],
)
def test_a_mistake_is_254_with_one_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert call(words) == 254
    assert told in one_sentence(capsys)


def test_no_command_prints_the_help_and_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert call([]) == 254
    assert "Usage: sunder" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", *sorted(cli.commands)])
def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert call([*([name] if name else []), "--help"]) == 0
    out, _ = capsys.readouterr()
    assert "sunder " in out
    assert len(cli.get_short_help_str() if not name else cli.commands[name].get_short_help_str(60)) > 10


def test_check_judges_every_path_and_exits_with_the_worst(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 8, 7):
        call(["run", "--seed", str(seed), "--runs", f"runs{seed}"])
    capsys.readouterr()
    paths = [f"runs{seed}/latest" for seed in (1, 8, 7)]
    assert call(["check", "--json", paths[0], paths[1]]) == 2
    assert [line["verdict"] for line in lines(capsys.readouterr().out)] == ["valid", "unknown"]
    assert call(["check", "--json", "missing", *paths]) == 1
    out, err = capsys.readouterr()
    assert [line["verdict"] for line in lines(out)] == [None, "valid", "unknown", "invalid"]
    assert "there is no missing" in lines(out)[0]["error"]
    assert [line["path"] for line in lines(out)] == ["missing", *paths]
    assert err.count("\n") == 1
    assert call(["check", "missing", paths[0]]) == 254


def test_check_with_one_checker_judges_by_that_alone(capsys: pytest.CaptureFixture[str]) -> None:
    call(["run", "--seed", "7"])
    capsys.readouterr()
    call(["check", "--json", "--checker", "lost_writes", str(LATEST / "history.jsonl")])
    (line,) = lines(capsys.readouterr().out)
    assert list(line["results"]) == ["lost_writes"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x01\x02" * 99,
        b'{"hello": 1}\n',
        b"plain text\n",
        b'{"format":"sunder-hist',
        b"\x1f\x8b\x08\x00",
        b"[" * 9_999,
    ],
    ids=["empty", "binary", "foreign", "text", "truncated", "compressed", "nested"],
)
def test_a_file_that_is_no_history_is_254_with_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "history.jsonl"
    file.write_bytes(content)
    assert call(["check", str(file)]) == 254
    assert "history.jsonl" in one_sentence(capsys)


def test_a_truncated_history_is_refused_unless_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    call(["run", "--seed", "1"])
    content = (LATEST / "history.jsonl").read_bytes()
    file = tmp_path / "cut.jsonl"
    file.write_bytes(content[:-10])
    capsys.readouterr()
    assert call(["check", str(file)]) == 254
    assert "is truncated" in one_sentence(capsys)
    assert call(["check", "--partial", str(file)]) == 0


def test_a_torn_last_line_of_a_killed_run_is_told_and_the_rest_judged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    call(["run", "--seed", "1"])
    (LATEST / "results.json").unlink()
    file = LATEST / "history.jsonl"
    file.write_bytes(file.read_bytes()[:-10])
    capsys.readouterr()
    assert call(["check", str(LATEST)]) == 0
    out, err = capsys.readouterr()
    assert "VALID" in out
    assert "was cut off" in err


def test_replay_says_reproduced_byte_for_byte(capsys: pytest.CaptureFixture[str]) -> None:
    call(["run", "--seed", "7"])
    capsys.readouterr()
    assert call(["replay", str(LATEST)]) == 0
    assert capsys.readouterr().out.startswith("REPRODUCED  byte for byte  invalid")


def test_replay_says_when_the_failure_does_not_come_again(
    capsys: pytest.CaptureFixture[str], fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(["run", "--seed", "7"])
    monkeypatch.setattr(fake, "INVALID", 99)
    capsys.readouterr()
    assert call(["replay", str(LATEST), "--times", "3"]) == 1
    assert capsys.readouterr().out.startswith("NOT REPRODUCED  0 of 3")


def test_replay_notices_that_only_the_verdict_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    call(["run", "--seed", "7"])
    file = LATEST / "history.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"time":1000000', b'"time":1000001'))
    capsys.readouterr()
    assert call(["replay", str(LATEST), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["identical"] == 0
    assert "history differs" in err


def test_replay_in_another_world_leaves_out_what_that_world_cannot_make(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = resolve({"nemesis": "clock,kill", "seed": 1})
    faults = (TimedFault(1, Skew({"n1": 5})), TimedFault(2, Kill(("n1",))), TimedFault(3, ResetClocks()))
    there = msgspec.structs.replace(settings, world="docker")
    asked, schedule = replay.possible(there, Schedule(faults=faults))
    assert asked.nemesis == ("kill",)
    assert schedule.faults == faults[1:2]
    assert "the docker world cannot make clock: this is not the same schedule" in capsys.readouterr().err
    assert replay.possible(settings, Schedule(faults=faults)) == (settings, Schedule(faults=faults))


@pytest.mark.parametrize(
    ("families", "attempts", "now"),
    [("rot,kill", 1, "now   valid"), ("rot", 0, "now   Not run: none of its faults can be made in docker.")],
)
def test_a_replay_without_the_faults_of_its_run_reproduces_nothing(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    families: str,
    attempts: int,
    now: str,
) -> None:
    call(["run", "--seed", "1", "--workload", "register", "--w", "3", "--nemesis", families])
    played: list[str] = []
    again = replay.attempts

    def in_simulator(saved: Any, settings: Any, *rest: Any) -> replay.Attempts:
        played.append(settings.world)
        return again(saved, msgspec.structs.replace(settings, world="sim"), *rest)

    monkeypatch.setattr(replay, "attempts", in_simulator)
    capsys.readouterr()
    assert call(["replay", str(LATEST), "--world", "docker"]) == 2
    out = capsys.readouterr().out
    assert out.startswith("NOT REPRODUCED  docker cannot make rot\n")
    assert now in out
    assert played == ["docker"] * attempts
    assert call(["replay", str(LATEST), "--world", "docker", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert (told["reproduced"], told["matched"], told["left_out"]) == (False, attempts, ["rot"])


def test_replay_of_a_run_that_never_ended_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    call(["run", "--seed", "1"])
    (LATEST / "results.json").unlink()
    capsys.readouterr()
    assert call(["replay", str(LATEST)]) == 254
    assert "`sunder run --seed 1` begins anew" in one_sentence(capsys)


def test_report_is_rendered_again_from_what_was_saved(capsys: pytest.CaptureFixture[str]) -> None:
    call(["run", "--seed", "7"])
    before = (LATEST / "report.html").read_bytes()
    (LATEST / "report.html").unlink()
    capsys.readouterr()
    assert call(["report", str(LATEST)]) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert (LATEST / "report.html").read_bytes() == before


def test_a_coroutine_that_an_interrupt_kept_from_starting_is_not_told_of(
    capsys: pytest.CaptureFixture[str], fake: Any
) -> None:
    assert call(["run", "--seed", str(fake.INTERRUPTED)]) == 130
    with warnings.catch_warnings(record=True) as seen:
        warnings.warn("coroutine 'Log._flush' was never awaited", RuntimeWarning, stacklevel=1)
    assert seen == []


@pytest.mark.parametrize("kind", ["combination", "scene", "workload", "nemesis", "checker", "mutant"])
def test_list_says_of_each_name_what_it_is(kind: str) -> None:
    told = run.sentences(kind)
    assert set(told) == set(known_names(kind))
    assert [name for name, sentence in told.items() if "." not in sentence] == []
    assert len(set(told.values())) == len(told)


def test_damage_before_the_last_line_is_refused_even_with_partial(
    capsys: pytest.CaptureFixture[str],
) -> None:
    call(["run", "--seed", "1"])
    file = LATEST / "history.jsonl"
    first, second, *rest = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([first, second, b"garbage\n", *rest]))
    capsys.readouterr()
    assert call(["check", "--partial", str(file)]) == 254
    assert "line 3" in one_sentence(capsys)


def test_list_names_everything_that_options_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", "--list"]) == 0
    out, _ = capsys.readouterr()
    for name in ("cart", "partition", "lost_writes", "hint-pop-first", "handoff-only"):
        assert f"    {name} " in out.replace("\n", " \n")


def test_colours_are_for_terminals_and_no_color_turns_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert screen.verdict("valid") == "\x1b[32mVALID\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert screen.verdict("valid") == "VALID"


def test_help_loads_neither_docker_nor_the_simulator_nor_the_checkers() -> None:
    script = (
        "import sys; from harness.cli import call; code = call(['--help'])\n"
        "heavy = {'docker', 'networkx', 'yaml', 'rich', 'asyncio', 'harness.runner', 'harness.sim', 'workloads'}\n"
        "print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stderr == "0 []\n"


def test_a_reader_that_stops_listening_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m harness run --list | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", reference.pages(), ids=lambda page: page.name)
def test_the_tables_in_the_docs_are_what_the_code_says(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "<!-- end -->" in text
    assert text == reference.rewritten(text), "run `python -m harness.reference`"


def test_commands_are_documented_with_every_option() -> None:
    text = reference.pages()[0].read_text("utf-8")
    for name, command in cli.commands.items():
        assert f"## `sunder {name}`\n" in text
        section = text.split(f"## `sunder {name}`\n", 1)[1].split("\n## ", 1)[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                for word in (*parameter.opts, *parameter.secondary_opts):
                    assert f"`{word}" in section, (
                        f"docs/commands.md does not tell of `{word}` of `sunder {name}`"
                    )


@pytest.mark.parametrize(
    ("written", "left_out"),
    [
        ({"combination": "register-power", "world": "docker"}, ["power"]),
        ({"combination": "register-power"}, []),
        ({"combination": "cart", "world": "docker", "nemesis": "partition"}, []),
        ({"world": "docker"}, []),
    ],
)
def test_faults_of_a_combination_that_the_world_cannot_make_are_named(
    written: dict[str, str], left_out: list[str]
) -> None:
    assert run.left_out_of(resolve(written)) == left_out
