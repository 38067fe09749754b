"""A scene's report begins with its story: steps, claims, and pictures whose numbers are those of the history."""

from __future__ import annotations

from functools import cache

import pytest
from test_report import Page

from harness import runner
from harness.report import render
from harness.report.scene import FIGURES
from harness.scenes import SCENES
from harness.settings import resolve
from history.history import History


@cache
def played(scene: str, mode: str = "siblings", handoff: bool = True) -> runner.Outcome:
    said = {"scene": scene, "mode": mode, "hinted_handoff": handoff, "seed": 1}
    return runner.execute(resolve({**said, **({"time": "60s"} if SCENES[scene].elastic else {})}))


def page(outcome: runner.Outcome) -> Page:
    return Page(render(outcome.history, outcome.verdicts, {}, title="scene", command="sunder run"))


def cast(history: History) -> dict[str, str]:
    return history.observed("scene")[0].value["seats"]


@pytest.mark.parametrize("scene", list(SCENES))
def test_the_story_stands_before_everything_but_the_verdict(scene: str) -> None:
    outcome = played(scene)
    text = page(outcome).text
    assert text.index(f"Scene: {scene}") < text.index("What happened") < text.index("Timeline", 300)
    for _, says in outcome.history.observed("scene")[0].value["steps"]:
        assert says in text
    for claim in next(v for v in outcome.verdicts if v.checker == "scene").evidence["claims"]:
        assert claim["claim"] in text
        assert f"yes: {claim['seen']}" in text


def test_the_queue_that_rose_and_drained_is_drawn_with_its_peak() -> None:
    outcome = played("home-replica-failure")
    dead = cast(outcome.history)["home1"]
    text = page(outcome).text
    assert f"hints for {dead}: at most 96" in text
    assert f"{dead} (home1): killed, 3.0 to 10.0 s" in text
    assert "NOT as the others" not in text


def test_clocks_are_told_apart_in_words() -> None:
    outcome = played("stale-rejoin")
    first = cast(outcome.history)["home1"]
    text = page(outcome).text
    assert f"before {first}: stale" in text
    assert f"concurrent to {first}" in text


def test_what_lww_lost_is_counted_and_the_load_has_numbers() -> None:
    lost, kept = page(played("hot-key", "lww")).text, page(played("hot-key")).text
    assert "400 acknowledged, none gone" in kept
    assert "400 acknowledged, 3" in lost
    assert "there at last" in lost
    # A metric that the store no longer has would draw as nothing.
    for title in (
        "reads coordinated",
        "writes coordinated",
        "passed on to a home",
        "reads served as a replica",
    ):
        assert any(f"{title} {n}" in kept for n in range(1, 1_000)), title


def test_the_alert_and_what_was_at_stake_are_drawn() -> None:
    text = page(played("second-failure")).text
    assert "alert above 30 s for 3 s" in text
    assert "writes that a second: at most 6" in text


def test_a_claim_that_did_not_hold_is_shown_as_such() -> None:
    assert "NO: 0 hints" in page(played("home-replica-failure", handoff=False)).text


def test_the_preference_list_says_of_which_keys_it_is() -> None:
    outcome = played("home-replica-failure")
    first = next(iter(outcome.history.observed("scene")[0].value["order"]))
    assert f"of {first}; the other keys have lists of their own" in page(outcome).text
    assert "of all 6 keys" in page(played("second-failure")).text


def test_the_rush_is_over_when_the_last_addition_begins() -> None:
    outcome = played("hot-key")
    over_s, _ = outcome.history.observed("scene")[0].value["steps"][-1]
    last_ns = max(o.invoke.time for o in outcome.history.select("add"))
    assert over_s - 0.2 <= last_ns / 1e9 <= over_s


def test_a_story_that_did_not_come_true_is_told_as_a_plan_with_what_was_seen_instead() -> None:
    outcome = played("home-replica-failure", handoff=False)
    claims = next(v for v in outcome.verdicts if v.checker == "scene").evidence["claims"]
    text = page(outcome).text
    assert "What happened" not in text
    assert "What was planned" in text
    for claim in claims:
        assert (f"Seen instead: {claim['seen']}" in text) is (claim["held"] == "NO")


@pytest.mark.parametrize(("scene", "mode"), [*((s, "siblings") for s in SCENES), ("hot-key", "lww")])
def test_every_claim_is_about_one_step_of_its_story(scene: str, mode: str) -> None:
    claims = next(v for v in played(scene, mode).verdicts if v.checker == "scene").evidence["claims"]
    shown = [name for step in SCENES[scene].story for name in step.shows]
    assert [shown.count(c["name"]) for c in claims] == [1] * len(claims)


def test_every_scene_has_pictures() -> None:
    assert set(FIGURES) == set(SCENES)
