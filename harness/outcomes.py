"""Every outcome of a campaign's nights, in one SQLite file; written after each cell, so that kill -9 loses one at most."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from checkers.verdict import Valid
from harness import settings as configuration
from harness.cells import CellResult
from harness.settings import UsageProblem

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE night (
    id INTEGER PRIMARY KEY,
    started TEXT NOT NULL,
    finished TEXT,
    revision TEXT,
    cells INTEGER NOT NULL
);
CREATE TABLE outcome (
    night INTEGER NOT NULL REFERENCES night(id),
    cell TEXT NOT NULL,
    label TEXT NOT NULL,
    world TEXT NOT NULL,
    mutant TEXT,
    seed INTEGER NOT NULL,
    settings TEXT NOT NULL,
    verdict TEXT NOT NULL,
    sentence TEXT NOT NULL,
    seconds REAL NOT NULL,
    events INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    trace TEXT,
    folder TEXT,
    error TEXT NOT NULL,
    PRIMARY KEY (night, cell)
) WITHOUT ROWID;
CREATE TABLE fingerprint (
    night INTEGER NOT NULL,
    cell TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    PRIMARY KEY (fingerprint, night, cell)
) WITHOUT ROWID;
"""


class Night(msgspec.Struct, frozen=True):
    """One pass over a campaign's cells."""

    id: int
    started: str
    finished: str | None
    revision: str | None
    cells: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One outcome as it was stored."""

    cell: str
    label: str
    world: str
    mutant: str | None
    seed: int
    verdict: Valid
    sentence: str
    seconds: float
    attempts: int
    folder: str | None
    error: str
    settings: dict[str, Any]
    fingerprints: tuple[str, ...] = ()


class Outcomes:
    """The file, opened for one campaign. Raises UsageProblem where it is something else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.connection = sqlite3.connect(path, isolation_level=None)
            # A write-ahead log survives kill -9 without a sync a row; only a power loss could cost the last rows.
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")
            version = self.connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self.connection.executescript(
                    f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                )
        except sqlite3.DatabaseError as problem:
            raise UsageProblem(
                f"{path} is no campaign's file ({problem}): move it away or choose another name"
            ) from None
        if version not in (0, SCHEMA_VERSION):
            raise UsageProblem(
                f"{path} has version {version}, this sunder writes {SCHEMA_VERSION}: move it away"
            )

    def close(self) -> None:
        self.connection.close()

    def begin(self, started: str, revision: str | None, cells: int) -> Night:
        cursor = self.connection.execute(
            "INSERT INTO night (started, revision, cells) VALUES (?, ?, ?)", (started, revision, cells)
        )
        assert cursor.lastrowid is not None
        return Night(cursor.lastrowid, started, None, revision, cells)

    def finish(self, night: Night, finished: str) -> None:
        self.connection.execute("UPDATE night SET finished = ? WHERE id = ?", (finished, night.id))

    def last(self, before: Night | None = None) -> Night | None:
        """The latest night, or the one before another."""
        bound = before.id if before is not None else 1 << 62
        row = self.connection.execute(
            "SELECT id, started, finished, revision, cells FROM night WHERE id < ? ORDER BY id DESC LIMIT 1",
            (bound,),
        ).fetchone()
        return Night(*row) if row else None

    def record(self, night: Night, result: CellResult) -> None:
        """Stores one outcome, whole or not at all."""
        cell, answer = result.cell, result.answer
        s = cell.settings
        self.connection.execute("BEGIN")
        self.connection.execute(
            "INSERT OR REPLACE INTO outcome VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                night.id,
                cell.key,
                cell.label,
                s.world,
                s.mutant,
                s.seed,
                msgspec.json.encode(configuration.written(s)).decode(),
                str(answer.verdict),
                answer.sentence,
                answer.seconds,
                answer.events,
                result.attempts,
                answer.trace,
                answer.folder,
                answer.error,
            ),
        )
        self.connection.executemany(
            "INSERT OR REPLACE INTO fingerprint VALUES (?, ?, ?)",
            [(night.id, cell.key, f) for f in answer.fingerprints],
        )
        self.connection.execute("COMMIT")

    def done(self, night: Night) -> set[str]:
        """The keys of the cells that have an outcome in this night."""
        return {
            key for (key,) in self.connection.execute("SELECT cell FROM outcome WHERE night = ?", (night.id,))
        }

    def failed(self, night: Night) -> set[str]:
        """The keys of the cells of the clean store that did not pass in this night."""
        return {
            key
            for (key,) in self.connection.execute(
                "SELECT cell FROM outcome WHERE night = ? AND mutant IS NULL AND verdict IN ('invalid', 'harness-error')",
                (night.id,),
            )
        }

    def counts(self, night: Night) -> list[tuple[str, str | None, Valid, int, float]]:
        """(label, mutant, verdict, how many, seconds together), in a steady order."""
        return [
            (label, mutant, Valid(verdict), count, seconds)
            for label, mutant, verdict, count, seconds in self.connection.execute(
                "SELECT label, mutant, verdict, count(*), sum(seconds) FROM outcome WHERE night = ?"
                " GROUP BY label, mutant, verdict ORDER BY label, mutant, verdict",
                (night.id,),
            )
        ]

    def rows(self, night: Night, verdicts: Iterable[Valid] = tuple(Valid)) -> list[Row]:
        """The outcomes of a night with one of these verdicts, in the order of label and seed."""
        wanted = [str(v) for v in verdicts]
        prints: dict[str, list[str]] = {}
        for key, value in self.connection.execute(
            "SELECT cell, fingerprint FROM fingerprint WHERE night = ? ORDER BY cell, fingerprint",
            (night.id,),
        ):
            prints.setdefault(key, []).append(value)
        marks = ", ".join("?" for _ in wanted)
        return [
            Row(
                cell=cell,
                label=label,
                world=world,
                mutant=mutant,
                seed=seed,
                verdict=Valid(verdict),
                sentence=sentence,
                seconds=seconds,
                attempts=attempts,
                folder=folder,
                error=error,
                settings=msgspec.json.decode(settings),
                fingerprints=tuple(prints.get(cell, ())),
            )
            for cell, label, world, mutant, seed, verdict, sentence, seconds, attempts, folder, error, settings in (
                self.connection.execute(
                    "SELECT cell, label, world, mutant, seed, verdict, sentence, seconds, attempts, folder, error, settings"
                    f" FROM outcome WHERE night = ? AND verdict IN ({marks}) ORDER BY label, seed",
                    (night.id, *wanted),
                )
            )
        ]

    def first_seen(self, fingerprint: str) -> Night | None:
        """The first night in which the clean store showed this."""
        row = self.connection.execute(
            "SELECT n.id, n.started, n.finished, n.revision, n.cells FROM fingerprint f"
            " JOIN night n ON n.id = f.night JOIN outcome o ON o.night = f.night AND o.cell = f.cell"
            " WHERE f.fingerprint = ? AND o.mutant IS NULL ORDER BY n.id LIMIT 1",
            (fingerprint,),
        ).fetchone()
        return Night(*row) if row else None

    def last_good(self, fingerprint: str, before: Night) -> Night | None:
        """The last earlier night that ran a cell of the same kinds and did not show this."""
        row = self.connection.execute(
            "SELECT id, started, finished, revision, cells FROM night n WHERE n.id < ?"
            " AND EXISTS (SELECT 1 FROM outcome o WHERE o.night = n.id AND o.label IN"
            "   (SELECT p.label FROM outcome p JOIN fingerprint f ON f.night = p.night AND f.cell = p.cell"
            "    WHERE f.fingerprint = ? AND p.night = ?))"
            " AND NOT EXISTS (SELECT 1 FROM fingerprint g JOIN outcome q ON q.night = g.night AND q.cell = g.cell"
            "   WHERE g.night = n.id AND g.fingerprint = ? AND q.mutant IS NULL)"
            " ORDER BY id DESC LIMIT 1",
            (before.id, fingerprint, before.id, fingerprint),
        ).fetchone()
        return Night(*row) if row else None
