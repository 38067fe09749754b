"""Settings: how flags, environment, file and combination make one record, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import settings as configuration
from harness.cli import run
from harness.settings import OPTIONS, Settings, UsageProblem, resolve
from harness.standard import COMBINATIONS
from workloads import WORKLOADS


def complaint(**flags: Any) -> str:
    with pytest.raises(UsageProblem) as caught:
        resolve(flags)
    return str(caught.value)


def test_nothing_said_is_the_shopping_cart_in_the_simulator() -> None:
    assert resolve() == Settings()


def test_every_field_but_the_store_path_is_an_option_and_every_option_is_a_field() -> None:
    assert {o.field for o in OPTIONS} == {f.name for f in msgspec.structs.fields(Settings)} - {"store_path"}


def test_flags_beat_environment_beats_file_beats_combination_beats_defaults() -> None:
    name, combination = next((n, c) for n, c in COMBINATIONS.items() if "time_seconds" in c.settings)
    said = {"combination": name}
    assert resolve().time_seconds == 60
    assert resolve(said).time_seconds == combination.settings["time_seconds"]
    assert resolve(said, file={"time": "3s"}).time_seconds == 3
    assert resolve(said, {"SUNDER_TIME": "4s"}, {"time": "3s"}).time_seconds == 4
    assert resolve({**said, "time": "5s"}, {"SUNDER_TIME": "4s"}, {"time": "3s"}).time_seconds == 5


def test_a_combination_may_be_named_by_the_environment() -> None:
    name = next(iter(COMBINATIONS))
    assert resolve({}, {"SUNDER_COMBINATION": name}).combination == name


@pytest.mark.parametrize("name", list(COMBINATIONS))
def test_every_standard_combination_resolves(name: str) -> None:
    settings = resolve({"combination": name})
    assert {f: getattr(settings, f) for f in COMBINATIONS[name].settings} == COMBINATIONS[name].settings
    assert settings.title == name


def test_keys_may_be_written_with_dashes_or_underscores() -> None:
    assert resolve(file={"recovery-time": "1s"}) == resolve(file={"recovery_time": "1s"})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("60s", 60), ("2m", 120), ("1h30m", 5400), ("7", 7), (7, 7), (1.5, 1.5)],
)
def test_a_duration_is_read(text: Any, seconds: float) -> None:
    assert resolve({"time": text}).time_seconds == seconds


@pytest.mark.parametrize("text", ["5x", "s", "", "1 h", "nan", "inf", "-", True, [], "1s2"])
def test_what_is_no_duration_is_refused_with_an_example(text: Any) -> None:
    assert "500ms" in complaint(time=text)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"workload": "kart"}, "did you mean 'cart'"),
        ({"nemesis": "partition,kil"}, "did you mean 'kill'"),
        ({"world": "simm"}, "did you mean 'sim'"),
        ({"combination": "strictt"}, "did you mean 'strict'"),
        ({"mode": "sibling"}, "did you mean 'siblings'"),
        ({"read_repair": "blockin"}, "did you mean 'blocking'"),
        ({"checkers": "lost_write"}, "did you mean 'lost_writes'"),
        ({"mutant": "hint-pop-frist"}, "did you mean 'hint-pop-first'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(flags: dict[str, Any], told: str) -> None:
    assert told in complaint(**flags)


def test_an_unknown_key_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageProblem, match="unknown key in the file 'worklod': did you mean 'workload'"):
        resolve(file={"worklod": "cart"})


def test_a_bad_key_or_value_names_the_file_that_it_stands_in() -> None:
    for content in ({"worklod": "cart"}, {"nodes": "many"}):
        with pytest.raises(UsageProblem, match=r"mine\.yaml"):
            resolve(file=content, file_name="mine.yaml")


def test_a_word_that_is_near_nothing_is_answered_with_all_names_and_no_guess() -> None:
    assert complaint(workload="banana") == "unknown workload 'banana': choose one of " + ", ".join(WORKLOADS)
    assert "did you mean" not in complaint(read_repair="banana")


def test_an_unknown_variable_is_answered_with_the_nearest_and_others_are_left_alone() -> None:
    with pytest.raises(UsageProblem, match="did you mean 'SUNDER_WORLD'"):
        resolve({}, {"SUNDER_WORD": "sim"})
    assert resolve({}, {"HOME": "/", "NO_COLOR": "1"}) == Settings()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"w": 4}, "w=4 answers cannot come from n=3 replicas"),
        ({"r": 4}, "r=4 answers cannot come from n=3 replicas"),
        ({"r": 0}, "r=0 would read nothing"),
        ({"w": 0}, "w=0 would write nothing"),
        ({"n": 6}, "n=6 replicas need at least 6 nodes, there are 5"),
        ({"n": 0}, "n=0 keeps no replica"),
        ({"nodes": 0}, "nodes=0"),
        ({"rate": 0}, "rate=0"),
        ({"rate": "nan"}, "write a number"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"keys": 0}, "keys=0"),
        ({"time": "0s"}, "time=0s"),
        ({"recovery_time": -1}, "recovery-time=-1s"),
        ({"nemesis_interval": 0}, "nemesis-interval=0s"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"seed": 2**63}, "out of range"),
        ({"seed": "1.5"}, "write a whole number"),
        ({"nodes": True}, "write a whole number"),
        ({"name": "../up"}, "cannot name a folder"),
        ({"name": "latest"}, "cannot name a folder"),
        ({"nemesis": "power", "world": "docker"}, "the docker world cannot make power"),
        ({"leave_running": True}, "add --world docker"),
        ({"sloppy": "perhaps"}, "write true or false"),
        ({"nemesis": ","}, "or none"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(flags: dict[str, Any], told: str) -> None:
    assert told in complaint(**flags)


def test_a_mutant_of_which_nothing_else_is_said_runs_where_it_shows() -> None:
    assert resolve({"mutant": "no-dots"}).combination == "quiet"
    assert resolve({"mutant": "no-dots", "workload": "cart"}).combination is None
    assert resolve({"mutant": "no-dots", "combination": "set"}).combination == "set"


def test_nemesis_none_is_no_fault_at_all() -> None:
    assert resolve({"nemesis": "none"}).nemesis == ()


def test_in_containers_the_default_faults_are_those_that_containers_can_suffer() -> None:
    assert resolve({"world": "docker"}).nemesis == ("partition", "kill", "pause")


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"seed": 5, "nemesis": "none", "time": "1.25s", "rate": 0.5},
        {"combination": "strict", "seed": 1, "sloppy": True, "n": 5, "checkers": "lost_writes,siblings"},
        {"hinted_handoff": False, "read_repair": "off", "mode": "lww", "name": "mine", "runs": "a b"},
        {"world": "docker", "leave_running": True, "nemesis_interval": 1e-05},
        {"mutant": "no-dots"},
        {"mutant": "no-dots", "workload": "cart"},
        {"mutant": "no-dots", "combination": "set", "world": "docker"},
    ],
)
def test_what_was_written_down_reads_back_equal_by_file_and_by_flags(flags: dict[str, Any]) -> None:
    settings = resolve(flags)
    content = msgspec.json.decode(msgspec.json.encode(configuration.written(settings)))
    assert resolve(file=content) == settings
    assert _by_flags(configuration.flags(settings)) == settings


def _by_flags(words: list[str]) -> Settings:
    """Settings from flags, as the command line reads them."""
    context = run.make_context("run", list(words))
    said = {k: v for k, v in context.params.items() if v is not None and k in configuration.BY_FIELD}
    return resolve(said)


def test_the_shortest_flags_leave_out_what_the_combination_says_already() -> None:
    words = configuration.flags(resolve({"combination": "strict", "seed": 9}))
    assert words == ["--combination", "strict", "--seed", "9"]


def test_flags_spell_out_what_the_environment_would_change() -> None:
    settings = resolve({"time": "60s"}, {"SUNDER_TIME": "5s"})
    assert "--time" not in configuration.flags(settings)
    assert configuration.flags(settings, also=["time_seconds"]) == ["--time", "60s"]


def test_the_store_path_is_never_written_down() -> None:
    assert "store_path" not in configuration.written(msgspec.structs.replace(Settings(), store_path="/x"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"workload: [", "is not valid YAML (line 1)"),
        (b"- cart\n", "must hold keys and values"),
        (b"\xff\xfe\x00\x01", "is not"),
        (b"1: 2\n", "the key 1 is not text"),
        (b"workload: !!python/object/apply:os.system [id]\n", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused_in_a_sentence(
    tmp_path: Path, content: bytes, told: str
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageProblem) as caught:
        configuration.read_yaml(file)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=r"cannot read .*No such file"):
        configuration.read_yaml(tmp_path / "none.yaml")


def test_bare_off_in_yaml_is_off() -> None:
    assert resolve(file={"read_repair": False}).read_repair == "off"
