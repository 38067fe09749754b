"""What the harness is worth: every planted bug is found by the combination that it names, and the clean store passes."""

from __future__ import annotations

from contextlib import closing

import pytest

from checkers.verdict import Valid
from harness.cells import Cell, CellResult, run_cells
from harness.mutants.catalog import MUTANTS
from harness.settings import resolve
from harness.standard import COMBINATIONS

SEEDS = range(1, 51)


@pytest.mark.parametrize("name", list(MUTANTS))
def test_a_planted_bug_is_found_within_fifty_seeds(name: str) -> None:
    found = first_invalid(name)
    assert found is not None, f"{name} was not found"
    seen = {fingerprint.split("/")[0] for fingerprint in found.answer.fingerprints}
    assert seen & set(MUTANTS[name].seen_by), f"seen by {seen} alone"


def first_invalid(name: str) -> CellResult | None:
    """The first invalid result of the mutant, or None after all seeds."""
    combination = MUTANTS[name].combination
    cells = [Cell(resolve({"mutant": name, "combination": combination, "seed": seed})) for seed in SEEDS]
    with closing(run_cells(cells, 2)) as results:
        for result in results:
            assert result.verdict is not Valid.HARNESS_ERROR, result.answer.error
            if result.verdict is Valid.INVALID:
                return result
    return None


INERT_MAX = 2
"""Of fifty runs so many may be unknown because none of the few faults of a family hit anything: that is said, and no alarm."""


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMBINATIONS))
def test_the_clean_store_passes_fifty_seeds_of_every_standard_combination(name: str) -> None:
    cells = [Cell(resolve({"combination": name, "seed": seed})) for seed in SEEDS]
    others = [r for r in run_cells(cells, 2) if r.verdict is not Valid.VALID]
    inert = [r for r in others if r.verdict is Valid.UNKNOWN and "faults: inert" in r.answer.sentence]
    wrong = [
        f"seed {r.cell.settings.seed}: {r.answer.sentence} {r.answer.error}" for r in others if r not in inert
    ]
    assert wrong == []
    assert len(inert) <= INERT_MAX
