"""One write on its way to the replicas of a key: who has it durably, and who stands in for whom.

DeCandia et al. 2007, sections 4.5 and 4.6: sloppy quorum and hints. Silence is never taken for failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from store.messages import WriteDone
from store.runtime import Future

if TYPE_CHECKING:
    from store.coordinator import Coordinator, Want


class Write:
    """Goes on after the client was answered, until every home replica has the write or a hint for it exists."""

    def __init__(
        self, coordinator: Coordinator, key: bytes, encoded: bytes, want: Want, *, again: bool = False
    ) -> None:
        """`again`: the record was written before, and this node may hold more than it by now."""
        self._c = coordinator
        self._key = key
        self._encoded = encoded
        self._want = want
        node = coordinator.config.node
        place = coordinator.place(key)
        # First of all: a disk that refuses must leave no call and no timer behind.
        own: Future | None = None
        if place.holds:
            replica = coordinator.replica
            own = replica.join(key, encoded) if again else replica.store(key, encoded)
        self.ring = coordinator.ring.version
        """By which version of the ring it is counted."""
        self._groups = place.groups
        self._homes = place.holders
        self._fallbacks: Iterator[str] = iter(place.fallbacks)
        self._passed: list[str] = []
        """Fallbacks that seemed down when their turn came."""
        self._covered: set[str] = set()
        """Those of them that have the write, or for which a durable hint exists."""
        self._standing_in: dict[str, str] = {}
        self._own_hints: set[str] = set()
        self._acks: set[str] = set()
        self._stood: set[str] = set()
        """Those of `_covered` for whom somebody answered: what W counts. A home replica that answers late and the fallback
        that stood in for it are two nodes, but after the handoff one copy."""
        self._primaries = 0
        """Home replicas among `_acks`."""
        self._deadline_ns = coordinator.runtime.clock.mono_ns() + want.timeout_ns
        self.future = coordinator.runtime.future()
        """None once enough have it durably, or what was lacking when the time was over."""
        self._asked: set[str] = set()
        self._id = coordinator.calls.open(self._answered, WriteDone, self._asked)
        self._closed = False
        coordinator.rounds.begin(key)
        self._timer = coordinator.runtime.call_later(
            min(coordinator.replica_timeout_ns, want.timeout_ns), self._late
        )
        if own is not None:
            self._kept(own, node)
        self._spread()
        if own is None and place.holds:
            self._ack(node, node)

    def _spread(self) -> None:
        """Sends the write to the home replicas, and to fallbacks for those that seem down."""
        coordinator, node = self._c, self._c.config.node
        down: list[str] = []
        direct: list[str] = []
        for home in self._homes:
            if home != node:
                up = not coordinator.sloppy or coordinator.gossip.up(home)
                if not up:
                    down.append(home)
                # Only asking tells whether a home replica that seems down can answer.
                if up or self._want.primaries:
                    direct.append(home)
        if direct:
            self._asked.update(direct)
            frame = coordinator.rounds.write(self._id, self._key, self._encoded, ring=self.ring)
            for home in direct:
                coordinator.runtime.net.send(home, frame)
        for home in down:
            self._stand_in(home)

    def _kept(self, durable: Future, home: str) -> None:
        """This node's own copy, for itself or as a hint for `home`, counts once it is durable."""
        durable.add_done_callback(partial(self._kept_durably, home))

    def _kept_durably(self, home: str, durable: Future) -> None:
        if durable.exception() is None:  # else the log has said so; this copy does not count
            self._ack(self._c.config.node, home)

    def _answered(self, src: str, message: WriteDone) -> None:
        self._ack(src, self._standing_in.get(src, src))

    def _ack(self, responder: str, home: str) -> None:
        acks = self._acks
        if responder not in acks:
            acks.add(responder)
            self._primaries += responder in self._homes
        self._stood.add(home)
        self._covered.add(home)
        want = self._want
        if not self.future.done():
            responders, primaries = self._counted() if self._groups else (len(self._stood), self._primaries)
            if responders >= want.responders and primaries >= want.primaries:
                self.future.set_result(None)
        if len(self._covered) == len(self._homes) and self.future.done():
            self._close()

    def _counted(self) -> tuple[int, int]:
        """What W and pw count while the range moves: of the old or of the new homes, whichever have fewer."""
        return (
            min(sum(home in self._stood for home in group) for group in self._groups),
            min(sum(home in self._acks for home in group) for group in self._groups),
        )

    def elsewhere(self) -> bool:
        """Whether by the present ring the write belongs to others than those who were asked."""
        place = self._c.place(self._key)
        return (place.holders, place.groups) != (self._homes, self._groups)

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._timer.cancel()
            self._c.calls.close(self._id)
            self._c.rounds.end(self._key)

    def _stand_in(self, home: str) -> None:
        """Finds the next node in the order of preference that keeps the write for `home`."""
        c = self._c
        node = c.config.node
        if node not in self._homes and node not in self._standing_in:
            self._standing_in[node] = home
            self._kept(c.hints.store(home, self._key, self._encoded), home)
            return
        for fallback in self._fallbacks:
            if fallback == node:
                continue
            if not c.gossip.up(fallback):
                self._passed.append(fallback)
            else:
                self._standing_in[fallback] = home
                self._asked.add(fallback)
                frame = c.rounds.write(self._id, self._key, self._encoded, home, self.ring)
                c.runtime.net.send(fallback, frame)
                return
        self._keep_hint(home)
        self._ask_suspects(home)

    def _ask_suspects(self, home: str) -> None:
        """Nobody else seems up. That is a belief, and no reason to refuse a write: who answers all the same counts."""
        net, rounds = self._c.runtime.net, self._c.rounds
        if home not in self._asked:
            self._asked.add(home)
            net.send(home, rounds.write(self._id, self._key, self._encoded, ring=self.ring))
        if self._passed:  # one for each home replica: two hints for the same one would count once
            fallback = self._passed.pop(0)
            self._standing_in[fallback] = home
            self._asked.add(fallback)
            net.send(fallback, rounds.write(self._id, self._key, self._encoded, home, self.ring))

    def _keep_hint(self, home: str) -> None:
        """Nobody else is left: this node keeps the hint. It makes no further copy, and so does not count towards W."""
        c = self._c
        if home not in self._own_hints:
            self._own_hints.add(home)
            durable = c.hints.store(home, self._key, self._encoded)
            durable.add_done_callback(partial(self._own_hint_durably, home))

    def _own_hint_durably(self, home: str, durable: Future) -> None:
        if durable.exception() is not None:
            return
        self._covered.add(home)
        if len(self._covered) == len(self._homes) and self.future.done():
            self._close()

    def _late(self) -> None:
        """Some replica owes an answer. Turns to fallbacks for those, and gives the client up at the deadline; whoever
        has neither the write nor a hint by then gets one that this node keeps, so that nobody is left behind for ever."""
        c = self._c
        now = c.runtime.clock.mono_ns()
        over = now >= self._deadline_ns
        uncovered = [home for home in self._homes if home not in self._covered]
        stand_ins = {home: fallback for fallback, home in self._standing_in.items()}
        for home in uncovered:
            owing = stand_ins.get(home, home)
            if owing != c.config.node:
                c.gossip.missed(owing)
            if c.sloppy:
                (self._keep_hint if over else self._stand_in)(home)
        if over and not self.future.done():
            counts = self._counted() if self._groups else (len(self._stood), self._primaries)
            self.future.set_result(self._want.short(*counts))
        if over or (self.future.done() and not c.sloppy):
            self._close()
        else:
            wait = min(c.replica_timeout_ns, max(self._deadline_ns - now, 1))
            self._timer = c.runtime.call_later(wait, self._late)
