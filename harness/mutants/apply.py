"""Plants one bug in a copy of the store: patches whose old text occurs exactly once, and processes that run the copy."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

PACKAGES = ("store", "workloads")
"""What a mutant may change, and what a copy therefore holds."""

VARIABLE = "SUNDER_VARIANT"
"""Set for processes that run a copy: the directory that holds it."""

MANIFEST = "variant.json"


class DoesNotApply(Exception):
    """The patch does not fit the source that is here; the message names mutant, file and reason."""


class Patch(msgspec.Struct, frozen=True):
    """In `file` (relative to the top of the source tree) `old`, which occurs exactly once, becomes `new`."""

    file: str
    old: str
    new: str


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """A store with one planted bug. `combination` is the standard combination that exposes it; `seen_by` the checkers."""

    name: str
    sentence: str
    mirrors: str
    patches: tuple[Patch, ...]
    combination: str
    seen_by: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Identifies the change itself: equal digests are equal patches."""
        return hashlib.sha256(msgspec.json.encode(self.patches)).hexdigest()[:16]


class Variant(msgspec.Struct, frozen=True):
    """A copy that was made: which mutant, by which patches, and where it lies."""

    mutant: str
    digest: str
    directory: str

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """The environment in which a new Python process imports the copy and nothing else in its place."""
        path = [self.directory]
        if (top() / "pyproject.toml").is_file():
            # A checkout that was never installed is found through the current directory, which -P takes away.
            path.append(str(top()))
        if base.get("PYTHONPATH"):
            path.append(base["PYTHONPATH"])
        return {**base, "PYTHONPATH": os.pathsep.join(path), VARIABLE: self.directory}


def top() -> Path:
    """The directory that holds the package `harness`."""
    return Path(__file__).resolve().parents[2]


def patched(mutant: Mutant, source: Path) -> dict[str, str]:
    """Each changed file's new text. Raises DoesNotApply."""
    texts: dict[str, str] = {}
    for patch in mutant.patches:
        where = f"mutant {mutant.name} does not apply to {patch.file}"
        if patch.file.split("/", 1)[0] not in PACKAGES or ".." in patch.file.split("/"):
            raise DoesNotApply(f"{where}: only files of {' and '.join(PACKAGES)} may be changed")
        if patch.file not in texts:
            try:
                texts[patch.file] = (source / patch.file).read_text("utf-8")
            except FileNotFoundError:
                raise DoesNotApply(f"{where}: there is no such file") from None
        count = texts[patch.file].count(patch.old)
        if count != 1 or not patch.old:
            raise DoesNotApply(f"{where}: its old text occurs {count} times, not once: {_first(patch.old)!r}")
        if patch.old == patch.new:
            raise DoesNotApply(f"{where}: its new text is its old text: {_first(patch.old)!r}")
        texts[patch.file] = texts[patch.file].replace(patch.old, patch.new)
    if not texts:
        raise DoesNotApply(f"mutant {mutant.name} changes nothing")
    for file, text in texts.items():
        try:
            compile(text, file, "exec")
        except SyntaxError as problem:
            raise DoesNotApply(
                f"mutant {mutant.name} leaves {file} broken at line {problem.lineno}: {problem.msg}"
            ) from None
    return texts


def _first(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


def apply(mutant: Mutant, destination: Path, *, source: Path | None = None) -> Variant:
    """Copies the packages to `destination` and changes the copy. Raises DoesNotApply before anything is copied."""
    source = source or top()
    texts = patched(mutant, source)
    for package in PACKAGES:
        # Compiled files are left behind: Python would judge them fresh by time and size, not by content.
        shutil.copytree(
            source / package, destination / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    for file, text in texts.items():
        (destination / file).write_text(text, "utf-8")
    variant = Variant(mutant.name, mutant.digest, str(destination))
    (destination / MANIFEST).write_bytes(msgspec.json.encode(variant))
    return variant


@contextmanager
def copied(mutant: Mutant, *, source: Path | None = None) -> Generator[Variant]:
    """A copy in a temporary directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sunder-mutant-") as directory:
        yield apply(mutant, Path(directory).resolve(), source=source)


def command(*words: str) -> list[str]:
    """Starts this harness anew. -P: the current directory must not come before the copy."""
    return [sys.executable, "-P", "-m", "harness", *words]


def current(environment: Mapping[str, str] | None = None) -> Variant | None:
    """The variant that this process runs, if it runs one. An assertion fails when it imports something else."""
    directory = (os.environ if environment is None else environment).get(VARIABLE)
    if not directory:
        return None
    variant = msgspec.json.decode((Path(directory) / MANIFEST).read_bytes(), type=Variant)
    import store
    import workloads

    for package in (store, workloads):
        assert package.__file__ is not None
        found = Path(package.__file__).resolve()
        assert found.is_relative_to(Path(directory).resolve()), f"{found} is not the copy in {directory}"
    return variant
