"""Faults that did not bite prove nothing: every fault family that a run asked for has to be verified at least once."""

from __future__ import annotations

from typing import Any, cast

from checkers.verdict import Verdict, conclude
from history.history import History


class Faults:
    """Unknown, reason `inert`, where some family was never verified. Judged wherever a run asked for any."""

    name = "faults"

    def check(self, history: History) -> Verdict:
        families: dict[str, dict[str, Any]] = {
            family: {"requested": 0, "verified": 0, "fired": 0} for family in history.header.families
        }
        for op in history.nemesis:
            seen = families.get(str(op.invoke.meta.get("family")))
            if seen is None:
                continue
            done = op.complete
            evidence: Any = done.value if done is not None and done.type == "ok" else None
            told = cast(dict[str, Any], evidence) if isinstance(evidence, dict) else {}
            seen["fired"] += told.get("fired") or 0
            if op.invoke.meta.get("heal"):
                continue
            seen["requested"] += 1
            seen["verified"] += told.get("verified") is True
            if done is not None and done.error:
                seen.setdefault("error", done.error)
        inert = [family for family, seen in families.items() if not seen["verified"]]
        reason = ""
        if inert:
            alike: dict[str, list[str]] = {}
            for family in inert:
                alike.setdefault(_why(families[family]), []).append(family)
            reason = "inert: " + "; ".join(f"{', '.join(names)}: {why}" for why, names in alike.items())
        elif not families:
            reason = "no faults were asked for"
        return conclude(
            history,
            self.name,
            undecided=reason,
            judged=bool(families),
            evidence={"families": families, "inert": inert},
        )


def _why(seen: dict[str, Any]) -> str:
    if not seen["requested"]:
        return "no fault was ever injected: make the run longer, or the interval between faults shorter"
    failed = f" ({seen['error']})" if "error" in seen else ""
    return f"{seen['requested']} faults, none verified{failed}"
