"""Exit codes: Jepsen's, so that scripts written for either read both."""

from __future__ import annotations

from collections.abc import Iterable

from checkers.verdict import PRECEDENCE, Valid

VALID = 0
INVALID = 1
UNKNOWN = 2
INTERRUPTED = 130
USAGE = 254
HARNESS_ERROR = 255

OF = {
    Valid.VALID: VALID,
    Valid.INVALID: INVALID,
    Valid.UNKNOWN: UNKNOWN,
    Valid.HARNESS_ERROR: HARNESS_ERROR,
}


def worst(codes: Iterable[int]) -> int:
    """The code of many judgements: invalid, then harness error, then usage, then unknown, then valid.

    >>> worst([VALID, UNKNOWN, USAGE]), worst([HARNESS_ERROR, INVALID]), worst([])
    (254, 1, 2)
    """
    seen = set(codes)
    order = [OF[v] for v in PRECEDENCE]
    order.insert(order.index(HARNESS_ERROR) + 1, USAGE)
    return next((code for code in order if code in seen), UNKNOWN)
