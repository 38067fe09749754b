"""Writes the tables of options in docs/commands.md from the commands themselves: `python -m harness.reference`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from harness.cli import cli
from harness.mutants.apply import top

FILE = Path("docs") / "commands.md"
_MARKED = re.compile(r"(<!-- options of (?P<name>[a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


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


def rewritten(text: str) -> str:
    """The page with its tables as they have to be."""
    return _MARKED.sub(lambda m: f"{m[1]}{options(cli.commands[m['name']])}{m[3]}", text)


if __name__ == "__main__":
    page = top() / FILE
    page.write_text(rewritten(page.read_text("utf-8")), "utf-8")
    sys.stderr.write(f"wrote {FILE}\n")
