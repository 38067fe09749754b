"""The scenes by name: each shows what it is there to show, in both worlds, and a store that is broken in its way does not."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from checkers.verdict import Valid
from harness import alerts, runner
from harness.cells import Cell, run_cells
from harness.cli import call
from harness.docker.engine import DockerTrouble
from harness.docker.image import build
from harness.scenes import SCENES
from harness.scenes.stage import scaled, told
from harness.settings import UsageProblem, resolve

SEEDS = (1, 2, 3, 26, 29, 37)
"""26, 29 and 37: a coordinator believed all others down and refused a write, though nobody had been asked."""


def at_a_tenth(scene: str) -> dict[str, str]:
    """A story of minutes takes a tenth of its time, and so do the alert rules that it is held against."""
    return {"time": "60s"} if SCENES[scene].elastic else {}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scene", list(SCENES))
def test_a_scene_shows_what_it_is_there_to_show(scene: str, seed: int) -> None:
    outcome = runner.execute(resolve({"scene": scene, "seed": seed, **at_a_tenth(scene)}))
    assert outcome.verdict is Valid.VALID, outcome.sentence
    assert next(v for v in outcome.verdicts if v.checker == "scene").judged


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_second_failure_is_announced_by_the_rules_as_they_ship(seed: int) -> None:
    outcome = runner.execute(resolve({"scene": "second-failure", "seed": seed}))
    assert outcome.verdict is Valid.VALID, outcome.sentence
    (fired,) = [a for a in outcome.history.observed("alerts")[0].value if a["alert"] == "ConsistencyHorizon"]
    assert (fired["threshold"], fired["for_seconds"]) == (300, 30)


def test_scaled_rules_keep_what_is_no_time() -> None:
    rules = {r.alert: scaled(r, 0.1) for r in alerts.read(alerts.shipped())}
    assert (rules["ConsistencyHorizon"].expr.threshold, rules["ConsistencyHorizon"].for_ns) == (
        30,
        3_000_000_000,
    )
    assert rules["HintsPending"].expr.threshold == 1_000


@pytest.mark.parametrize("seed", [1, 2])
def test_the_hot_key_in_lww_mode_loses_additions_and_counts_them(seed: int) -> None:
    outcome = runner.execute(resolve({"scene": "hot-key", "mode": "lww", "seed": seed}))
    assert outcome.verdict is Valid.VALID, outcome.sentence
    claims = next(v for v in outcome.verdicts if v.checker == "scene").evidence["claims"]
    assert any(c["name"] == "last-writer-wins-loses" and c["held"] == "yes" for c in claims)


def test_lost_data_leads_and_the_broken_claims_of_the_scene_follow() -> None:
    cells = [Cell(resolve({"scene": "hot-key", "mutant": "lww-wall-clock", "seed": 3}))]
    with closing(run_cells(cells, 1)) as results:
        (result,) = results
    told = result.answer.sentence
    assert told.startswith("invalid: set_full: "), told
    assert "elements of 400 are lost (400 were acknowledged)" in told
    assert told.endswith("; 2 more invalid: lost_writes, scene"), told
    assert result.answer.fingerprints[0] == "set_full/lost/none"


def test_a_scene_runs_again_byte_for_byte_from_its_schedule() -> None:
    settings = resolve({"scene": "stale-rejoin", "seed": 5})
    outcome = runner.execute(settings)
    assert runner.replay(outcome.schedule, settings).journal == outcome.journal


def test_other_seeds_cast_other_nodes_and_keys() -> None:
    casts = [
        runner.execute(resolve({"scene": "stale-rejoin", "seed": seed})).history.observed("scene")[0].value
        for seed in (1, 2)
    ]
    assert casts[0]["keys"] != casts[1]["keys"]
    assert all(f"{c['seats']['home2']} and" in c["steps"][1][1] for c in casts)


@pytest.mark.parametrize(
    ("scene", "mutant", "claim"),
    [
        ("stale-rejoin", "lww-wall-clock", "concurrent-are-siblings"),
        ("hot-key", "lww-wall-clock", "siblings-keep-every-write"),
        ("home-replica-failure", "never-unsuspect", "hints-drain"),
        ("second-failure", "lww-wall-clock", "nothing-is-lost"),
    ],
)
def test_a_planted_bug_breaks_the_scene_that_is_about_it(scene: str, mutant: str, claim: str) -> None:
    cells = [Cell(resolve({"scene": scene, "mutant": mutant, "seed": 1, **at_a_tenth(scene)}))]
    with closing(run_cells(cells, 1)) as results:
        (result,) = results
    assert result.verdict is Valid.INVALID, result.answer.error
    assert any(f.startswith(f"scene/{claim}/") for f in result.answer.fingerprints), (
        result.answer.fingerprints
    )


def test_without_hinted_handoff_no_queue_rises_and_the_scene_says_so() -> None:
    outcome = runner.execute(resolve({"scene": "home-replica-failure", "hinted_handoff": False, "seed": 1}))
    assert outcome.verdict is Valid.INVALID
    assert "0 hints" in outcome.sentence


@pytest.mark.parametrize("said", [{"keys": 3}, {"nemesis": "pause"}, {"nodes": 7}, {"time": "5s"}])
def test_what_a_scene_has_of_its_own_cannot_be_said_otherwise(said: dict[str, object]) -> None:
    with pytest.raises(UsageProblem, match="the scene stale-rejoin has its own"):
        resolve({"scene": "stale-rejoin", **said})


@pytest.mark.parametrize("word", ["help", "list"])
def test_scene_help_tells_every_story(capsys: pytest.CaptureFixture[str], word: str) -> None:
    assert call(["run", "--scene", word]) == 0
    out, _ = capsys.readouterr()
    for scene in SCENES.values():
        assert scene.name in out
        assert scene.sentence in out


def test_the_words_of_a_story_name_only_seats_and_keys_that_it_has() -> None:
    for scene in SCENES.values():
        names = {*(f"home{i}" for i in (1, 2, 3)), "fallback1", "fallback2", *scene.keys}
        assert all("{" not in says for _, says in told(scene, dict.fromkeys(names, "x")))


@pytest.fixture(scope="module")
def image() -> None:
    if os.environ.get("SUNDER_NO_DOCKER") == "1":
        pytest.skip("SUNDER_NO_DOCKER=1")
    try:
        build()
    except DockerTrouble as trouble:
        if os.environ.get("SUNDER_REQUIRE_DOCKER") == "1":
            pytest.fail(f"SUNDER_REQUIRE_DOCKER=1, but: {trouble}")
        pytest.skip(str(trouble))


@pytest.mark.docker
@pytest.mark.usefixtures("image")
@pytest.mark.parametrize(("scene", "mode"), [*((scene, "siblings") for scene in SCENES), ("hot-key", "lww")])
def test_a_scene_shows_the_same_in_containers(scene: str, mode: str) -> None:
    cell = Cell(resolve({"world": "docker", "scene": scene, "mode": mode, "seed": 1}))
    with closing(run_cells([cell], 1)) as results:
        (result,) = results
    assert result.verdict is Valid.VALID, f"{result.answer.sentence} {result.answer.error}"
