"""Gossip and failure detection: who seems to be up, as this node sees it.

Every interval each node tells a random peer the (generation, heartbeat) of everybody it knows of, and is told in return.
A generation is durable and goes up at every start; where a disk has lost it, peers say how far it had come. "Down" is a local
view for routing, never a reason to drop a write: it is left as soon as anything is heard from the peer.
"""

from __future__ import annotations

from collections.abc import Callable

from store import messages
from store.config import Config
from store.metrics import Metrics
from store.runtime import Runtime


class Gossip:
    def __init__(self, config: Config, runtime: Runtime, metrics: Metrics) -> None:
        self._config = config
        self._runtime = runtime
        self._metrics = metrics
        self._mono_ns = runtime.clock.mono_ns
        self._peers = tuple(sorted(p for p in config.peers if p != config.node))
        self._interval_ns = config.gossip_interval_ms * 1_000_000
        self._suspect_ns = config.suspect_after_ms * 1_000_000
        self._heartbeats: dict[str, tuple[int, int]] = {}
        self._alive_ns: dict[str, int] = {}
        self._missed: set[str] = set()
        self._round = 0
        self.ring = 0
        """Version of the ring, which others are told of in passing."""
        self.outlived: Callable[[int], None] = lambda generation: None
        """Called with the generation in which a peer has heard more of this node than it knows itself."""

    def begin(self, generation: int) -> None:
        """This node's heartbeats count from here: it is in this generation now."""
        self._heartbeats[self._config.node] = (generation, 0)

    def follow(self, peers: tuple[str, ...], ring: int) -> None:
        """From now on these are the peers. Who is new is not suspected yet; who is no peer any more is forgotten."""
        self._peers = tuple(sorted(p for p in peers if p != self._config.node))
        self.ring = ring
        now = self._runtime.clock.mono_ns()
        self._alive_ns = {peer: self._alive_ns.get(peer, now) for peer in self._peers}
        self._missed.intersection_update(self._peers)
        gone = self._heartbeats.keys() - {*self._peers, self._config.node}
        for peer in gone:
            del self._heartbeats[peer]

    def start(self, generation: int) -> None:
        """Begins to gossip; nobody is suspected yet."""
        now = self._runtime.clock.mono_ns()
        self._alive_ns = dict.fromkeys(self._peers, now)
        self.begin(generation)
        self._runtime.spawn(self._rounds(), name="gossip")

    async def _rounds(self) -> None:
        while True:
            jitter = self._runtime.draw("gossip-jitter", self._round) % (self._interval_ns // 4 + 1)
            await self._runtime.sleep(self._interval_ns - self._interval_ns // 8 + jitter)
            self._round += 1
            generation, beat = self._heartbeats[self._config.node]
            self._heartbeats[self._config.node] = (generation, beat + 1)
            if self._peers:
                peer = self._peers[self._runtime.draw("gossip-peer", self._round) % len(self._peers)]
                self._tell(peer, answer=True)
                # A suspected peer is tried in every round: a node once suspected must be able to come back.
                for suspect in self._peers:
                    if suspect != peer and not self.up(suspect):
                        self._tell(suspect, answer=True)
            self._metrics.gossip_rounds += 1

    def _tell(self, peer: str, *, answer: bool) -> None:
        self._runtime.net.send(peer, messages.encode(messages.Gossip(self._heartbeats, answer, self.ring)))

    def received(self, src: str, message: messages.Gossip) -> None:
        now = self._runtime.clock.mono_ns()
        for node, beat in message.heartbeats.items():
            if node in self._alive_ns and beat > self._heartbeats.get(node, (0, -1)):
                self._heartbeats[node] = beat
                self._alive_ns[node] = now
        own = message.heartbeats.get(self._config.node)
        if own is not None and own > self._heartbeats[self._config.node]:
            self.outlived(own[0])
        if message.answer:
            self._tell(src, answer=False)

    def heard(self, src: str) -> bool:
        """Something arrived from `src`. Returns whether it had seemed down until now."""
        now = self._mono_ns()
        silent_ns = now - self._alive_ns.get(src, 0)
        self._alive_ns[src] = now
        if src in self._missed:
            self._missed.discard(src)
            return True
        return silent_ns >= self._suspect_ns and src != self._config.node

    def silent_ns(self, node: str) -> int:
        """For how long nothing was heard of `node`."""
        return self._mono_ns() - self._alive_ns.get(node, 0)

    def missed(self, node: str) -> None:
        """`node` owed an answer and did not give it in time."""
        if node not in self._missed:
            self._missed.add(node)
            self._metrics.suspicions += 1

    def up(self, node: str) -> bool:
        if node == self._config.node:
            return True
        if node in self._missed:
            return False
        return self._mono_ns() - self._alive_ns.get(node, 0) < self._suspect_ns

    def view(self) -> dict[str, dict[str, object]]:
        """For `/status`: each peer as this node sees it."""
        return {
            peer: {"up": self.up(peer), "heartbeat": list(self._heartbeats.get(peer, (0, 0)))}
            for peer in self._peers
        }
