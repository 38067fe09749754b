"""Golden histories: `ok-`, `bad-` and `unknown-` for every checker, each with what has to be said about it.

Comments of the form `# name: JSON` carry the header (`guarantees`, `families`) and the expectation: `anomalies` as
[kind, key, witness], `evidence` (a part of it), `reason`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from checkers import CHECKERS, Valid
from checkers.witness import lines
from history.header import Header
from history.text import parse

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*/*.txt"))
VERDICTS = {"ok": Valid.VALID, "bad": Valid.INVALID, "unknown": Valid.UNKNOWN}


def told(text: str) -> dict[str, Any]:
    return {
        name: msgspec.json.decode(value) for name, value in re.findall(r"^# (\w+): ([\[{\"].*)$", text, re.M)
    }


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_a_golden_history_is_judged_as_its_name_says(file: Path) -> None:
    text = file.read_text()
    expected = told(text)
    header = Header(guarantees=expected.get("guarantees", {}), families=tuple(expected.get("families", ())))
    history = parse(text, header)
    verdict = CHECKERS[file.parent.name]().check(history)
    assert verdict.checker == file.parent.name
    assert verdict.valid is VERDICTS[file.stem.partition("-")[0]], verdict
    assert verdict.judged
    assert [[a.kind, a.key, list(a.witness)] for a in verdict.anomalies] == expected.get("anomalies", [])
    assert {name: verdict.evidence[name] for name in expected.get("evidence", {})} == expected.get(
        "evidence", {}
    )
    if verdict.valid is Valid.UNKNOWN:
        assert verdict.reason == expected["reason"]
    for a in verdict.anomalies:
        assert all(lines(a, history))
    msgspec.json.encode(verdict)


def test_every_checker_has_golden_histories_of_every_kind() -> None:
    kinds = {(f.parent.name, f.stem.partition("-")[0]) for f in FILES}
    wanted = {(name, kind) for name in CHECKERS for kind in VERDICTS} - {("faults", "bad")}
    assert kinds == wanted
