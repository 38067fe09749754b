"""Writes the tables in docs/ from the code that they describe: `python -m harness.reference`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from harness.cli import cli
from harness.mutants.apply import top
from harness.mutants.catalog import MUTANTS
from harness.settings import OPTIONS, resolve, written
from harness.standard import COMBINATIONS

PAGES = ("commands.md", "mutants.md", "standard.md")
_MARKED = re.compile(r"(<!-- (?P<what>[a-z]+)(?: of (?P<name>[a-z]+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def options(command: click.Command) -> str:
    """A Markdown table of a command's options, without --help."""
    context = click.Context(command)
    rows: list[str] = []
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
            metavar = "" if parameter.is_flag else f" {parameter.make_metavar(context)}"
            rows.append(f"| {names}{metavar} | {_cell(parameter.help or '')} |")
    if not rows:
        return "It has no options.\n"
    return "\n".join(["| option | meaning |", "|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _yaml(value: object) -> str:
    """A value as one would write it in a settings file."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def mutants() -> str:
    """A Markdown table of the planted bugs."""
    rows = [
        f"| `{m.name}` | {_cell(m.sentence)} | `{m.combination}` | {', '.join(m.seen_by)} | {_cell(m.mirrors)} |"
        for m in MUTANTS.values()
    ]
    return "\n".join(["| name | bug | found by | seen by | mirrors |", "|---|---|---|---|---|", *rows, ""])


def combinations() -> str:
    """A Markdown table of the standard combinations, each with the settings that it changes."""
    rows: list[str] = []
    for name, combination in COMBINATIONS.items():
        settings = resolve({"combination": name})
        changed = [
            o for o in OPTIONS if o.field in combination.settings and o.field not in ("workload", "nemesis")
        ]
        said = written(settings, only=[o.field for o in changed])
        more = ", ".join(f"{key}: {_yaml(value)}" for key, value in said.items())
        faults = ", ".join(settings.nemesis) or "none"
        rows.append(f"| `{name}` | {_cell(combination.sentence)} | {settings.workload} | {faults} | {more} |")
    return "\n".join(
        ["| name | what for | workload | faults | settings |", "|---|---|---|---|---|", *rows, ""]
    )


def rewritten(text: str) -> str:
    """A page with its tables as they have to be."""

    def table(found: re.Match[str]) -> str:
        match found["what"]:
            case "options":
                content = options(cli.commands[found["name"]])
            case "mutants":
                content = mutants()
            case "combinations":
                content = combinations()
            case _:
                return found[0]
        return f"{found[1]}{content}{found[4]}"

    return _MARKED.sub(table, text)


def pages() -> list[Path]:
    """The pages that hold tables."""
    return [top() / "docs" / name for name in PAGES]


if __name__ == "__main__":
    for page in pages():
        page.write_text(rewritten(page.read_text("utf-8")), "utf-8")
        sys.stderr.write(f"wrote docs/{page.name}\n")
