"""What a campaign's night comes to: groups of equal failures first, then every configuration; as Markdown and JUnit."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from checkers.verdict import Valid
from harness import exits, junit
from harness import settings as configuration
from harness.outcomes import Night, Outcomes, Row
from harness.settings import Settings

MARKDOWN_BYTES_MAX = 1_000_000
"""Below the 1 MiB that summaries of continuous integration may have."""

GROUP_CELLS_MAX = 20
GROUPS_MAX = 200
CASES_MAX = 10_000
"""Above so many cells those of a configuration that passed share one JUnit case, as do those that missed a planted bug."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Failures with one fingerprint: `cells` of `ran` cells of the same configurations."""

    fingerprint: str
    cells: tuple[Row, ...]
    ran: int
    first_seen: Night | None
    last_good: Night | None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A planted bug: how many of its cells were invalid, and which of those has the least seed."""

    mutant: str
    cells: int
    ran: int
    errors: int
    seed: int | None
    folder: str | None = None
    """Where the run of that seed was kept."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A night. `counts` are of the clean store; `left` cells have no outcome yet."""

    name: str
    night: Night
    counts: dict[Valid, int]
    left: int
    seconds: float
    configurations: dict[str, dict[Valid, int]]
    groups: tuple[Group, ...]
    errors: tuple[Row, ...]
    unknowns: tuple[Row, ...]
    found: tuple[Found, ...]

    @property
    def exit_code(self) -> int:
        """The worst of the clean store's cells; a night of which something was not run is unknown at best. A planted bug is
        meant to be found: one that no cell of a whole night found counts as invalid."""
        codes = [exits.OF[v] for v, count in self.counts.items() if count]
        if self.left:
            codes.append(exits.UNKNOWN)
        else:
            codes += [exits.INVALID for f in self.found if not f.cells and not f.errors]
        codes += [exits.HARNESS_ERROR for f in self.found if f.errors]
        if self.found and not any(self.counts.values()):
            codes.append(exits.VALID)
        return exits.worst(codes)


def summarise(name: str, outcomes: Outcomes, night: Night, *, left: int) -> Summary:
    """Reads a night's outcomes."""
    counts: dict[Valid, int] = dict.fromkeys(Valid, 0)
    configurations: dict[str, dict[Valid, int]] = {}
    planted: dict[str, dict[Valid, int]] = defaultdict(lambda: dict.fromkeys(Valid, 0))
    seconds = 0.0
    for label, mutant, verdict, count, spent in outcomes.counts(night):
        configurations.setdefault(label, dict.fromkeys(Valid, 0))[verdict] += count
        seconds += spent
        if mutant is None:
            counts[verdict] += count
        else:
            planted[mutant][verdict] += count
    bad = outcomes.rows(night, (Valid.INVALID, Valid.HARNESS_ERROR, Valid.UNKNOWN))
    return Summary(
        name=name,
        night=night,
        counts=counts,
        left=left,
        seconds=seconds,
        configurations=configurations,
        groups=_groups(outcomes, night, bad, configurations),
        errors=tuple(r for r in bad if r.verdict is Valid.HARNESS_ERROR),
        unknowns=tuple(r for r in bad if r.verdict is Valid.UNKNOWN and r.mutant is None),
        found=tuple(_found(mutant, tally, bad) for mutant, tally in sorted(planted.items())),
    )


def _found(mutant: str, tally: dict[Valid, int], bad: Sequence[Row]) -> Found:
    failing = [r for r in bad if r.mutant == mutant and r.verdict is Valid.INVALID]
    first = min(failing, key=lambda r: r.seed, default=None)
    return Found(
        mutant=mutant,
        cells=tally[Valid.INVALID],
        ran=sum(tally.values()),
        errors=tally[Valid.HARNESS_ERROR],
        seed=first.seed if first is not None else None,
        folder=first.folder if first is not None else None,
    )


def _groups(
    outcomes: Outcomes, night: Night, bad: Sequence[Row], configurations: dict[str, dict[Valid, int]]
) -> tuple[Group, ...]:
    """The clean store's failures by fingerprint, the most frequent first."""
    cells: dict[str, list[Row]] = defaultdict(list)
    for row in bad:
        if row.verdict is Valid.INVALID and row.mutant is None:
            for fingerprint in row.fingerprints:
                cells[fingerprint].append(row)
    groups = [
        Group(
            fingerprint=fingerprint,
            cells=tuple(rows),
            ran=sum(sum(configurations[label].values()) for label in {r.label for r in rows}),
            first_seen=outcomes.first_seen(fingerprint),
            last_good=outcomes.last_good(fingerprint, night),
        )
        for fingerprint, rows in cells.items()
    ]
    return tuple(sorted(groups, key=lambda g: (-len(g.cells), g.fingerprint)))


def repeat(row: Row) -> str:
    """The command that runs a cell again."""
    settings = Settings(**configuration.fields_of(row.settings, source=row.label))
    return shlex.join(["sunder", "run", *configuration.flags(settings)])


def markdown(s: Summary) -> str:
    """Failures first; cut off, with a word about it, before it grows too large."""
    lines = [f"# {s.name}: {_headline(s)}", ""]
    lines += [f"Night {s.night.id}, begun {s.night.started}, revision {s.night.revision or 'unknown'}.", ""]
    for group in s.groups[:GROUPS_MAX]:
        lines += _group_lines(group)
    if len(s.groups) > GROUPS_MAX:
        lines += [f"... and {len(s.groups) - GROUPS_MAX} rarer kinds of failure; see `campaign.sqlite`.", ""]
    if s.errors:
        lines += [f"## {_many(len(s.errors), 'harness error')}", "", "The harness failed, not the store.", ""]
        lines += _cell_lines(s.errors)
    if s.found:
        lines += [
            "## Planted bugs",
            "",
            "| mutant | found in | first by seed | its run |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {f.mutant} | {f.cells} of {f.ran} | {f.seed if f.seed is not None else 'NOT FOUND'} | {f.folder or ''} |"
            for f in s.found
        ]
        lines += [""]
    if s.unknowns:
        lines += [f"## {len(s.unknowns)} unknown", "", "These prove nothing, for or against.", ""]
        lines += _cell_lines(s.unknowns)
    lines += [
        "## Configurations",
        "",
        "| configuration | valid | invalid | unknown | harness error |",
        "|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {_cell_text(label)} | {t[Valid.VALID]} | {t[Valid.INVALID]} | {t[Valid.UNKNOWN]} | {t[Valid.HARNESS_ERROR]} |"
        for label, t in s.configurations.items()
    ]
    return _cut("\n".join(lines) + "\n")


def _headline(s: Summary) -> str:
    """The clean store's cells by verdict, then the cells of planted bugs: together they are all that ran."""
    clean = sum(s.counts.values())
    planted = sum(f.ran for f in s.found)
    parts: list[str] = []
    if clean:
        counted = ", ".join(
            f"{s.counts[v]} {v}"
            for v in (Valid.INVALID, Valid.HARNESS_ERROR, Valid.UNKNOWN, Valid.VALID)
            if s.counts[v]
        )
        parts.append(f"{_many(clean, 'cell')}{' of the clean store' if planted else ''}: {counted}")
    if planted:
        found = sum(bool(f.cells) for f in s.found)
        parts.append(
            f"{_many(planted, 'cell')} of planted bugs: {found} of {_many(len(s.found), 'planted bug')} found"
        )
    if s.left:
        parts.append(f"{s.left} not run yet")
    return "; ".join(parts) or "nothing ran"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _group_lines(group: Group) -> list[str]:
    seen = (
        f"First seen {group.first_seen.started} at {group.first_seen.revision}" if group.first_seen else "New"
    )
    good = f"; last good {group.last_good.started} at {group.last_good.revision}" if group.last_good else ""
    return [
        f"## {group.fingerprint}: {len(group.cells)} of {group.ran}",
        "",
        f"{seen}{good}.",
        "",
        *_cell_lines(group.cells),
    ]


def _cell_lines(rows: Sequence[Row]) -> list[str]:
    lines: list[str] = []
    for row in rows[:GROUP_CELLS_MAX]:
        kept = f" ({row.folder})" if row.folder else ""
        lines.append(f"* {_cell_text(row.sentence)[:500]}{kept}")
        lines.append(f"  `{repeat(row)}`")
    if len(rows) > GROUP_CELLS_MAX:
        lines.append(f"* ... and {len(rows) - GROUP_CELLS_MAX} more")
    return [*lines, ""]


def _cell_text(text: str) -> str:
    """Text that stays within one cell of a table and one line of a list."""
    return " ".join(text.split()).replace("|", "\\|")


def _cut(text: str) -> str:
    content = text.encode()
    if len(content) <= MARKDOWN_BYTES_MAX:
        return text
    kept = content[:MARKDOWN_BYTES_MAX].decode("utf-8", "ignore").rpartition("\n")[0]
    return f"{kept}\n\nCut off here: the rest is in `campaign.sqlite`.\n"


def xml(s: Summary, outcomes: Outcomes) -> str:
    """JUnit: a case for each cell, and for each planted bug one more that asks whether any of its cells found it."""
    fold = sum(s.counts.values()) + sum(f.ran for f in s.found) > CASES_MAX
    kept = (Valid.INVALID, Valid.HARNESS_ERROR, Valid.UNKNOWN) if fold else tuple(Valid)
    # What passes: the clean store when it is valid, a planted bug when it is found.
    cases = [
        _case(row)
        for row in outcomes.rows(s.night, kept)
        if not fold or row.mutant is None or row.verdict is not Valid.INVALID
    ]
    if fold:
        cases += [
            _folded(*counted)
            for counted in outcomes.counts(s.night)
            if counted[2] is Valid.VALID or (counted[1] is not None and counted[2] is Valid.INVALID)
        ]
    cases += [_mutant_case(f, whole=s.left == 0) for f in s.found]
    return junit.render(
        s.name,
        sorted(cases, key=lambda c: (c.verdict is Valid.VALID, c.group)),
        properties={"night": str(s.night.id), "revision": s.night.revision or ""},
    )


def _folded(label: str, mutant: str | None, verdict: Valid, count: int, seconds: float) -> junit.Case:
    if mutant is not None and verdict is Valid.VALID:
        told = f"{mutant} is not found by {count} seeds"
        return junit.Case(
            group=label,
            name=f"{count} seeds that do not find it",
            verdict=Valid.UNKNOWN,
            seconds=seconds,
            message=told,
        )
    return junit.Case(group=label, name=f"{count} seeds", verdict=Valid.VALID, seconds=seconds)


def _case(row: Row) -> junit.Case:
    """A cell. One of a planted bug that did not find it is skipped: the bug's own case says whether another did."""
    verdict, message = row.verdict, row.sentence
    if row.mutant is not None:
        if row.verdict is Valid.INVALID:
            verdict, message = Valid.VALID, f"{row.mutant} is found: {row.sentence}"
        elif row.verdict is Valid.VALID:
            verdict, message = Valid.UNKNOWN, f"{row.mutant} is not found by this seed"
    more = [message, *row.fingerprints, repeat(row), *([row.folder] if row.folder else []), row.error]
    return junit.Case(
        group=row.label,
        name=f"seed {row.seed}",
        verdict=verdict,
        seconds=row.seconds,
        message=message,
        text="\n".join(m for m in more if m) if row.verdict is not Valid.VALID else "",
    )


def _mutant_case(f: Found, *, whole: bool) -> junit.Case:
    if f.cells:
        verdict, message = Valid.VALID, f"found in {f.cells} of {f.ran} cells"
    elif f.errors:
        verdict, message = Valid.HARNESS_ERROR, f"{f.errors} of {f.ran} cells ended in a harness error"
    elif whole:
        verdict, message = Valid.INVALID, f"not found in {f.ran} cells"
    else:
        verdict, message = Valid.UNKNOWN, f"not found in the {f.ran} cells that ran so far"
    return junit.Case(
        group="planted bugs", name=f"{f.mutant} is found", verdict=verdict, message=message, text=message
    )
