"""House rules that no linter knows: nothing undocumented, no room outside the contracts, no file that nobody imports."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from checkers import CHECKERS
from harness.cli import cli
from harness.mutants.catalog import MUTANTS
from harness.scenes import SCENES
from harness.standard import COMBINATIONS
from nemeses.fault import FAMILIES
from workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
ROOMS = ("harness", "workloads", "checkers", "nemeses", "history", "store")


def in_docs(page: str, names: list[str]) -> list[str]:
    """Names that the page does not mention in code quotes."""
    text = (ROOT / "docs" / page).read_text()
    return [n for n in names if f"`{n}`" not in text]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("checkers.md", list(CHECKERS)),
        ("workloads.md", list(WORKLOADS)),
        ("faults.md", list(FAMILIES)),
        ("mutants.md", list(MUTANTS)),
        ("standard.md", list(COMBINATIONS)),
        ("scenes.md", list(SCENES)),
        ("commands.md", [f"sunder {name}" for name in cli.commands]),
    ],
)
def test_everything_that_has_a_name_stands_in_the_docs(page: str, names: list[str]) -> None:
    assert in_docs(page, names) == []


def test_every_option_that_the_docs_name_can_be_given() -> None:
    known = {
        "--help",
        "--version",
        "--print-example",
        "--config",
        "--data",
    }  # of `python -m store`, and of curl
    known |= {
        name
        for command in cli.commands.values()
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        (page.name, option)
        for page in pages
        for line in page.read_text().splitlines()
        if not line.lstrip().startswith(("pip ", "docker ", "apt-get "))
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", line)
    }
    assert {(page, option) for page, option in named if option not in known} == set()


def test_every_top_level_package_stands_in_the_import_contracts() -> None:
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = {word.strip() for layer in contracts["contracts"][0]["layers"] for word in layer.split("|")}
    assert packages == set(ROOMS) == layers == set(contracts["root_packages"])


def test_no_file_lacks_an_importer() -> None:
    sources = {p: p.read_text() for room in (*ROOMS, "tests") for p in (ROOT / room).rglob("*.py")}
    text = "\n".join(sources.values()) + (ROOT / "pyproject.toml").read_text()
    orphans: list[str] = []
    for path in sources:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if module.startswith("tests") or path.name in ("__init__.py", "__main__.py"):
            continue
        parent, _, name = module.rpartition(".")
        used = re.search(rf"\b{re.escape(module)}\b", text) or re.search(
            rf"from {re.escape(parent)} import [^\n]*\b{name}\b|from {re.escape(parent)} import \([^)]*\b{name}\b",
            text,
        )
        if not used and f"{path.parent.name}/{path.name}" not in text:
            orphans.append(module)
    assert orphans == []


def test_every_python_file_opens_with_the_sentence_that_says_what_it_is_for() -> None:
    silent = [
        str(p.relative_to(ROOT))
        for room in ROOMS
        for p in (ROOT / room).rglob("*.py")
        if p.read_text().strip() and not p.read_text().startswith(('"""', "#!"))
    ]
    assert silent == []


def test_changelog_and_package_have_the_same_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
