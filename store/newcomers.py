"""Whoever is to come into the ring is asked first whether it is there: every phase of a change waits for its word, and a name or
an address with a slip in it would never give one."""

from __future__ import annotations

from store import messages
from store.config import Config
from store.membership import Membership
from store.messages import Ping, Pong
from store.quorum import Calls, Gather
from store.runtime import Runtime

ASK_NS = 300_000_000
ASK_TIMES = 3
"""More than once: the first connection may have been refused a moment before this node knew the other's name."""


class Newcomers:
    def __init__(self, config: Config, runtime: Runtime, membership: Membership, calls: Calls) -> None:
        self._config = config
        self._runtime = runtime
        self._membership = membership
        self._calls = calls

    async def answers(self, node: str, address: str) -> bool:
        """Whether a node of this name answers at this address. While it is asked it does not come in by itself; if it is
        silent, this node forgets that it was named."""
        membership, net = self._membership, self._runtime.net
        known = node in membership.known
        membership.known.add(node)
        membership.courted.append(node)
        net.meet(node, address)
        try:
            for _ in range(ASK_TIMES):
                ask = Gather(self._runtime, self._calls, 1, ASK_NS, expects=Pong, asked=(node,))
                net.send(node, messages.encode(Ping(ask.id)))
                if await ask.future:
                    return True
        finally:
            membership.courted.remove(node)
        if node not in membership.members and node not in membership.courted:
            if not known:
                membership.known.discard(node)
            before = self._config.peers.get(node)
            if before is None:
                net.forget(node)
            else:
                net.meet(node, before)
        return False
