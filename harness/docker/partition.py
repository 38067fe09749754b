"""The one partition that may stand: applies it on all nodes at once, probes every link, and counts what it caught."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal

from harness.docker import links
from harness.docker.engine import DockerTrouble
from harness.docker.node import Node, everywhere
from harness.docker.reachability import Reachability
from nemeses.fault import Evidence, Link


class Partitioner:
    """Cuts and heals links between `nodes`; `now_ns` is the world's clock."""

    def __init__(self, nodes: Mapping[str, Node], now_ns: Callable[[], int]) -> None:
        self._nodes = dict(nodes)
        self._now_ns = now_ns
        self._reachability = Reachability({name: node.address for name, node in nodes.items()})
        self._blocked: frozenset[Link] = frozenset()
        self._mode: Literal["drop", "reject"] = "drop"
        self._caught = 0
        """Packets that rules caught which were replaced since."""
        self._probed = 0
        """The most of them that can have been our own probes."""

    @property
    def possible(self) -> bool:
        """Whether iptables works in every container."""
        return all(node.tables.four for node in self._nodes.values())

    async def apply(self, blocked: frozenset[Link], mode: Literal["drop", "reject"] = "drop") -> Evidence:
        """Replaces the standing partition by exactly these links (none: heals), and probes every link before and after.

        A partition is verified when every blocked link lost and a spared one carried; a healing when every link carries.
        """
        unknown = {end for link in blocked for end in link} - set(self._nodes)
        assert not unknown, unknown
        before = await self._probe()
        began_ns = time.monotonic_ns()
        caught = await self._replace(blocked, mode)
        applied_ns = time.monotonic_ns() - began_ns
        injected_ns = self._now_ns()
        self._caught += caught
        self._blocked, self._mode = blocked, mode
        after = await self._probe()
        fired = None
        if not blocked:
            fired = max(0, self._caught - self._probed)
            self._caught = self._probed = 0
        return Evidence(
            verified=_shows(blocked, before, after),
            mechanism=f"{links.MECHANISM}, {mode}" if blocked else links.MECHANISM,
            injected_ns=injected_ns,
            verified_ns=self._now_ns(),
            before=links.summary(before),
            after=links.summary(after) | {"applied_us": applied_ns // 1000},
            fired=fired,
        )

    async def _replace(self, blocked: frozenset[Link], mode: Literal["drop", "reject"]) -> int:
        """Puts the rules in place and returns how many packets the old ones had caught."""
        standing = bool(self._blocked)
        nodes = list(self._nodes.values())
        replies = await everywhere(
            node.shell.run(
                links.script(
                    node.tables,
                    [self._nodes[source].peer for source in links.blocked_sources(blocked, node.name)],
                    mode,
                    count=standing,
                )
            )
            for node in nodes
        )
        failed = [
            f"{node.name}: {reply.output}" for node, reply in zip(nodes, replies, strict=True) if reply.status
        ]
        if failed:
            raise DockerTrouble(f"iptables refused the partition's rules ({'; '.join(failed)})")
        return sum(links.packets(reply.output) for reply in replies) if standing else 0

    async def _probe(self) -> dict[Link, bool]:
        carried, sent = await self._reachability.probe(self._blocked)
        # A rejected datagram is answered, and that answer may run into the opposite rule.
        hits = 2 if self._mode == "reject" else 1
        self._probed += sum(hits * count for link, count in sent.items() if link in self._blocked)
        return carried


def _shows(blocked: frozenset[Link], before: Mapping[Link, bool], after: Mapping[Link, bool]) -> bool:
    """Whether the probes show the partition, and not something else such as nodes that hear nothing at all."""
    if not blocked:
        return all(after.values())
    lost = all(not after[link] for link in blocked)
    spared = [link for link in after if link not in blocked]
    # With nothing spared, what was heard before has to show that nodes hear.
    return lost and (any(after[link] for link in spared) if spared else any(before.values()))
