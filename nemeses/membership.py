"""Changes of the ring: nodes that join, leave, and are put in the place of others, while clients go on asking."""

from __future__ import annotations

from nemeses.draw import Draw, shuffled
from nemeses.fault import Join, Leave, Replace, RingChange

MEMBERS_MIN = 4
"""Nobody is asked to leave fewer: one more than the usual three replicas."""


def change(
    nodes: tuple[str, ...], spares: tuple[str, ...], draw: Draw, number: int, *, replaces: bool
) -> RingChange | None:
    """The `number`-th change of a run, from 1, given that the ones before it took place; None where none is left.

    At most one node of a run is replaced, if any (`replaces`): what it alone held is gone, as with a destroyed disk.
    """
    inside, outside = list(nodes), list(spares)
    made: RingChange | None = None
    for turn in range(1, number + 1):
        kinds = ["join", *(["replace"] if replaces else [])] if outside else []
        kinds += ["leave"] if len(inside) > MEMBERS_MIN else []
        if not kinds:
            return None
        kind = kinds[draw("ring-change", turn) % len(kinds)]
        goes = shuffled(tuple(inside), draw, "ring-goes", turn)[0]
        comes = shuffled(tuple(outside), draw, "ring-comes", turn)[0] if outside else ""
        if kind == "join":
            made = Join(comes)
        elif kind == "leave":
            made = Leave(goes)
        else:
            made = Replace(goes, comes)
            replaces = False
        if kind != "leave":
            outside.remove(comes)
            inside.append(comes)
        if kind != "join":
            inside.remove(goes)
            # Who left may come back; who was replaced is dead.
            outside += [goes] if kind == "leave" else []
    return made
