"""What was decided about a run, whichever way it is handed over: as results.json, or as bare verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from checkers.verdict import PRECEDENCE, Valid, Verdict, compose
from history.header import Header


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """Verdicts with those that decided first; `error` is the traceback of a harness error."""

    verdict: Valid
    sentence: str
    seed: int
    mutant: str | None
    repeat: str
    verdicts: tuple[Verdict, ...]
    fingerprints: tuple[str, ...] = ()
    error: str = ""


def read(results: Any, header: Header) -> Findings:
    """From the content of results.json (verdicts in a list or by checker), or from a list of verdicts alone."""
    content: Any = msgspec.to_builtins(results)
    whole = cast("dict[str, Any]", content) if isinstance(content, dict) else {"results": content}
    listed: Any = whole.get("results") or []
    if isinstance(listed, Mapping):
        listed = [
            {"checker": name, **verdict}
            for name, verdict in cast("dict[str, dict[str, Any]]", listed).items()
        ]
    verdicts = msgspec.convert(listed, tuple[Verdict, ...])
    verdict = msgspec.convert(whole["verdict"], Valid) if "verdict" in whole else compose(list(verdicts))
    ordered = tuple(sorted(verdicts, key=lambda v: (not v.judged, PRECEDENCE.index(v.valid))))
    return Findings(
        verdict=verdict,
        sentence=str(whole.get("sentence") or _sentence(verdict, ordered)),
        seed=int(whole.get("seed", header.seed)),
        mutant=whole.get("mutant") or header.config.get("mutant"),
        repeat=str(whole.get("repeat") or ""),
        verdicts=ordered,
        fingerprints=tuple(whole.get("fingerprints") or ()),
        error=str(whole.get("error") or ""),
    )


def _sentence(verdict: Valid, ordered: tuple[Verdict, ...]) -> str:
    said = next((v for v in ordered if v.judged and v.valid is verdict and v.reason), None)
    if said is not None:
        return f"{said.checker}: {said.reason}"
    if not any(v.judged for v in ordered):
        return "nothing was judged"
    return "nothing that was promised was broken" if verdict is Valid.VALID else "no reason was given"
