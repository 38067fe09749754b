"""Every checker by its name, and how several judge one history without one silencing another."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from difflib import get_close_matches

from checkers.availability import Availability
from checkers.cart import Cart
from checkers.convergence import Convergence
from checkers.durability import Durability
from checkers.inert import Faults
from checkers.lost_writes import LostWrites
from checkers.resurrection import Resurrection
from checkers.scene import Scene
from checkers.sessions import Sessions
from checkers.set_full import SetFull
from checkers.siblings import Siblings
from checkers.verdict import Checker, Valid, Verdict
from history.history import History

CHECKERS: dict[str, type[Checker]] = {
    "lost_writes": LostWrites,
    "siblings": Siblings,
    "resurrection": Resurrection,
    "convergence": Convergence,
    "durability": Durability,
    "sessions": Sessions,
    "set_full": SetFull,
    "cart": Cart,
    "availability": Availability,
    "faults": Faults,
    "scene": Scene,
}
"""`sunder check --checker` takes these names."""


class UnknownChecker(Exception):
    """The user named a checker that does not exist; the message names the nearest one."""


def check_all(history: History, names: Iterable[str] | None = None) -> list[Verdict]:
    """The verdict of each named checker, in order; None names all of them.

    Where the run asked for faults `faults` judges too, named or not: a run whose faults did not bite proves nothing. A checker
    that raises is `harness-error` for itself alone. Raises history.history.Malformed, and UnknownChecker.
    """
    wanted = list(dict.fromkeys(CHECKERS if names is None else names))
    for name in wanted:
        if name not in CHECKERS:
            near = get_close_matches(name, CHECKERS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(CHECKERS)}"
            raise UnknownChecker(f"there is no checker {name!r}: {hint}")
    if history.header.families and Faults.name not in wanted:
        wanted.append(Faults.name)
    _ = history.operations  # what is no history is nobody's verdict
    return [_check(CHECKERS[name], name, history) for name in wanted]


def _check(checker: type[Checker], name: str, history: History) -> Verdict:
    try:
        return checker().check(history)
    except Exception as problem:
        # Judged, whatever was promised: a checker that crashes is our bug, and must not pass unseen.
        return Verdict(
            checker=name,
            valid=Valid.HARNESS_ERROR,
            judged=True,
            reason=f"the checker failed: {_last_line(problem)}",
            evidence={"error": _last_line(problem), "at": _where(problem)},
        )


def _last_line(problem: Exception) -> str:
    return "".join(traceback.format_exception_only(problem)).strip().splitlines()[-1]


def _where(problem: Exception) -> str:
    """Module, line and function that raised, without any path of this machine."""
    frames = list(traceback.walk_tb(problem.__traceback__))
    frame, line = frames[-1]
    return f"{frame.f_globals.get('__name__', '?')}:{line} in {frame.f_code.co_name}"
