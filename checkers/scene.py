"""Whether a scene showed what it is there to show (docs/scenes.md). Judged where the header names the scene."""

from __future__ import annotations

from typing import Any

import msgspec

from checkers.scenes import CLAIMS
from checkers.scenes.claim import Claim
from checkers.scenes.stage import Stage
from checkers.verdict import Anomaly, Verdict, conclude, terms
from checkers.witness import anomaly
from history.history import History


class Scene:
    """Invalid with a sentence for every claim that did not hold; unknown where the history does not show one."""

    name = "scene"

    def check(self, history: History) -> Verdict:
        name = str(terms(history, self.name).get("name", ""))
        stage = Stage(history)
        if name not in CLAIMS or not stage.cast:
            missing = f"there is no scene {name!r}" if name and name not in CLAIMS else "no scene was played"
            return conclude(history, self.name, undecided=missing)
        claims = CLAIMS[name](stage)
        open_ones = [c for c in claims if c.held is None]
        return conclude(
            history,
            self.name,
            anomalies=[_broken(c) for c in claims if c.held is False],
            undecided=f"not shown: {open_ones[0].sentence} ({open_ones[0].seen})" if open_ones else "",
            evidence={"claims": [_plain(c) for c in claims]},
        )


def _broken(c: Claim) -> Anomaly:
    return anomaly(c.name, c.key, f"not so: {c.sentence}; {c.seen}", c.steps, c.links)


def _plain(c: Claim) -> dict[str, Any]:
    held = {True: "yes", False: "NO", None: "not shown"}[c.held]
    return {"claim": c.sentence, "held": held, "seen": c.seen, **msgspec.to_builtins({"name": c.name})}
