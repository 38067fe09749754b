"""Planting bugs: a patch fits exactly once or not at all, and the process that runs it runs nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cells import Cell, run_cells
from harness.mutants import apply
from harness.mutants.apply import DoesNotApply, Mutant, Patch
from harness.mutants.catalog import MUTANTS
from harness.settings import known_names, resolve
from harness.standard import COMBINATIONS


def mutant(*patches: Patch) -> Mutant:
    return Mutant(
        name="sample",
        sentence="says so",
        mirrors="a test",
        patches=patches,
        combination="quiet",
        seen_by=("lost_writes",),
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tree = tmp_path / "source"
    for package in apply.PACKAGES:
        (tree / package / "__pycache__").mkdir(parents=True)
        (tree / package / "__init__.py").write_text("")
        (tree / package / "__pycache__" / "__init__.cpython-311.pyc").write_bytes(b"stale")
    (tree / "store" / "node.py").write_text("a = 1\nb = 2\nb = 2\n")
    return tree


def refusal(source: Path, *patches: Patch) -> str:
    with pytest.raises(DoesNotApply) as caught:
        apply.apply(mutant(*patches), source / "copy", source=source)
    assert not (source / "copy").exists()
    return str(caught.value)


def test_a_patch_changes_the_copy_and_not_the_source(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    variant = apply.apply(mutant(Patch("store/node.py", "a = 1", "a = 3")), copy, source=source)
    assert (copy / "store" / "node.py").read_text() == "a = 3\nb = 2\nb = 2\n"
    assert (source / "store" / "node.py").read_text() == "a = 1\nb = 2\nb = 2\n"
    assert (variant.mutant, variant.directory) == ("sample", str(copy))


def test_compiled_files_stay_behind(source: Path, tmp_path: Path) -> None:
    apply.apply(mutant(Patch("store/node.py", "a = 1", "a = 3")), tmp_path / "copy", source=source)
    assert list((tmp_path / "copy").rglob("*.pyc")) == []


def test_two_patches_of_one_file_apply_in_order(source: Path, tmp_path: Path) -> None:
    patches = (Patch("store/node.py", "a = 1", "c = 1"), Patch("store/node.py", "c = 1\nb = 2", "d = 1"))
    apply.apply(mutant(*patches), tmp_path / "copy", source=source)
    assert (tmp_path / "copy" / "store" / "node.py").read_text() == "d = 1\nb = 2\n"


@pytest.mark.parametrize(
    ("patch", "told"),
    [
        (Patch("store/node.py", "b = 2", "b = 3"), "occurs 2 times, not once: 'b = 2'"),
        (Patch("store/node.py", "z = 9", "z = 3"), "occurs 0 times, not once: 'z = 9'"),
        (Patch("store/node.py", "", "z = 3"), "not once"),
        (Patch("store/node.py", "a = 1", "a = 1"), "its new text is its old text"),
        (Patch("store/node.py", "a = 1", "a ="), "leaves store/node.py broken at line 1"),
        (Patch("store/none.py", "a", "b"), "there is no such file"),
        (Patch("harness/cli.py", "a", "b"), "only files of store and workloads"),
        (Patch("store/../harness/cli.py", "a", "b"), "only files of store and workloads"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused_before_anything_is_copied(
    source: Path, patch: Patch, told: str
) -> None:
    assert told in refusal(source, patch)


def test_a_mutant_without_patches_is_refused(source: Path) -> None:
    assert "changes nothing" in refusal(source)


def test_the_digest_is_of_the_change_alone() -> None:
    one = mutant(Patch("store/node.py", "a", "b"))
    assert one.digest == mutant(Patch("store/node.py", "a", "b")).digest
    assert one.digest != mutant(Patch("store/node.py", "a", "c")).digest


@pytest.mark.parametrize("name", list(MUTANTS))
def test_every_mutant_applies_to_this_very_store(name: str) -> None:
    apply.patched(MUTANTS[name], apply.top())


@pytest.mark.parametrize("name", list(MUTANTS))
def test_every_mutant_names_what_exists(name: str) -> None:
    assert MUTANTS[name].combination in COMBINATIONS
    assert set(MUTANTS[name].seen_by) <= set(known_names("checker"))


def test_the_copy_and_nothing_else_is_imported_even_beside_another_store(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "__init__.py").write_text("raise SystemExit('the wrong store')\n")
    sample = mutant(Patch("store/config.py", "n: int = 3", "n: int = 4"))
    with apply.copied(sample) as variant:
        script = (
            "from harness.mutants.apply import current; import store.config;"
            "print(current().mutant, store.config.Config(node='a', peers={}).n, store.__file__)"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", script],
            env=variant.environment({**os.environ, "PYTHONPATH": str(tmp_path)}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        name, n, file = done.stdout.split()
        assert (name, n) == ("sample", "4")
        assert Path(file).is_relative_to(variant.directory)
    assert not Path(variant.directory).exists()


def test_a_process_that_imports_another_store_than_its_copy_fails(source: Path, tmp_path: Path) -> None:
    variant = apply.apply(mutant(Patch("store/node.py", "a = 1", "a = 3")), tmp_path / "copy", source=source)
    with pytest.raises(AssertionError, match="is not the copy in"):
        apply.current({apply.VARIABLE: variant.directory})


def test_one_process_never_hosts_two_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = tmp_path / "notes"
    monkeypatch.setenv("FAKE_NOTES", str(notes))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    names = [None, *list(MUTANTS)[:2]]
    cells = [Cell(resolve({"mutant": name, "seed": seed})) for seed in (1, 2, 3) for name in names]
    results = list(run_cells(cells, 2, execute="fake_runner:execute"))
    assert len(results) == len(cells)
    hosted: dict[str, set[str]] = {}
    for line in notes.read_text().splitlines():
        process, _, name = line.split()
        hosted.setdefault(process, set()).add(name)
    assert all(len(stores) == 1 for stores in hosted.values())
    assert set().union(*hosted.values()) == {str(name) for name in names}


def test_a_run_with_a_mutant_says_so_in_its_folder(tmp_path: Path) -> None:
    name = next(iter(MUTANTS))
    done = subprocess.run(
        [sys.executable, "-m", "harness", "run", "--mutant", name, "--time", "1s", "--seed", "1", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    outcome = json.loads(done.stdout)
    combination = MUTANTS[name].combination
    assert outcome["command"] == f"sunder run --combination {combination} --time 1s --seed 1 --mutant {name}"
    environment = json.loads((tmp_path / outcome["path"] / "environment.json").read_text())
    assert environment["mutant"] == {"name": name, "digest": MUTANTS[name].digest}
