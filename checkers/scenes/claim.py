"""One thing that must be seen of a scene, and whether it was."""

from __future__ import annotations

from typing import Any

import msgspec

from checkers.witness import Link, Step


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """`held` is None where the history does not show it either way.

    `sentence` says what must be seen, `seen` what was; `steps` are the operations that show the opposite.
    """

    name: str
    sentence: str
    held: bool | None
    seen: str
    key: Any = None
    steps: tuple[Step, ...] = ()
    links: tuple[Link, ...] = ()


def unseen(name: str, sentence: str, missing: str) -> Claim:
    """A claim that nothing in the history speaks for or against."""
    return Claim(name=name, sentence=sentence, held=None, seen=missing)
