"""The planted bugs, each of which mirrors one that really happened; together they measure the harness."""

from __future__ import annotations

from harness.mutants.apply import Mutant

_ALL: tuple[Mutant, ...] = ()

MUTANTS: dict[str, Mutant] = {m.name: m for m in _ALL}
