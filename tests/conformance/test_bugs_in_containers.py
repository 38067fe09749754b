"""Planted bugs are found in containers too, by the same checkers, under real partitions, kills and pauses."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from checkers.verdict import Valid
from harness.cells import Cell, run_cells
from harness.docker.engine import DockerTrouble
from harness.docker.image import build
from harness.mutants.catalog import MUTANTS
from harness.settings import resolve

pytestmark = pytest.mark.docker

SEEDS = (1, 2, 3)
"""In containers a seed repeats what is asked for, not what happens: a bug may need a second run."""


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    if os.environ.get("SUNDER_NO_DOCKER") == "1":
        pytest.skip("SUNDER_NO_DOCKER=1")
    try:
        build()
    except DockerTrouble as trouble:
        if os.environ.get("SUNDER_REQUIRE_DOCKER") == "1":
            pytest.fail(f"SUNDER_REQUIRE_DOCKER=1, but: {trouble}")
        pytest.skip(str(trouble))


@pytest.mark.parametrize(
    ("name", "nemesis"), [("lww-wall-clock", "partition"), ("hint-pop-first", "partition")]
)
def test_a_planted_bug_is_found_in_containers(name: str, nemesis: str) -> None:
    settings = {
        "world": "docker",
        "mutant": name,
        "combination": MUTANTS[name].combination,
        "nemesis": nemesis,
        "time": "20s",
    }
    cells = [Cell(resolve({**settings, "seed": seed})) for seed in SEEDS]
    told: list[str] = []
    with closing(run_cells(cells, 1)) as results:
        for result in results:
            told.append(result.answer.sentence)
            assert result.verdict is not Valid.HARNESS_ERROR, result.answer.error
            if result.verdict is Valid.INVALID:
                seen = {fingerprint.split("/")[0] for fingerprint in result.answer.fingerprints}
                assert seen & set(MUTANTS[name].seen_by), told
                return
    pytest.fail(f"{name} was not found: {told}")


def test_the_clean_store_survives_real_partitions_kills_and_pauses() -> None:
    cell = Cell(
        resolve({"world": "docker", "combination": "register", "nemesis": "partition,kill,pause", "seed": 1})
    )
    (result,) = run_cells([cell], 1)
    assert result.verdict is Valid.VALID, result.answer.sentence
