"""Hints for a node that is away: how deep the queue became, and whether anything left it meanwhile."""

from __future__ import annotations

from checkers.scenes.claim import Claim, unseen
from checkers.scenes.stage import Stage, end
from history.history import NEVER, Operation


def rises(s: Stage, target: str, gone: Operation | None, back: Operation | None, *, least: int) -> Claim:
    """The claim that hints for the target rise to `least` at least while it is away, and that none of them is given up."""
    name = "hints-rise"
    sentence = "the queue of hints for the node that is away rises, on the nodes that stand in for it, and nothing leaves it"
    if gone is None:
        return unseen(name, sentence, "no node went away")
    until = back.index if back else NEVER
    depth: dict[str | None, int] = {}
    before: dict[str | None, int] = {}
    peak = 0
    for o, held in s.hints(target):
        if o.index < end(gone):
            before[o.node] = held
        elif o.index < until:
            if held < depth.get(o.node, 0):
                return Claim(
                    name=name,
                    sentence=sentence,
                    held=False,
                    seen=f"{o.node} held {depth[o.node]} hints for {target}, and then {held}, while it was away",
                    steps=((gone, f"{target} goes away"), (o, f"fewer hints for {target} than before")),
                )
            depth[o.node] = held
            peak = max(peak, sum(depth.values()))
    holders = sorted(node for node, held in depth.items() if node and held)
    return Claim(
        name=name,
        sentence=sentence,
        held=peak >= least and peak > sum(before.values()),
        seen=f"{peak} hints for {target} at the most, held by {', '.join(holders) or 'nobody'}",
        steps=((gone, f"{target} goes away; hints for it should have been kept"),),
    )
