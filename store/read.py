"""One read on its way: asks N nodes, later the rest of the order of preference, until R have answered; then repairs.

What R promises once repair is blocking: R distinct nodes hold what was answered durably, home replicas as a replica does and
fallbacks as a hint, so that whoever reads next reads no less (CASSANDRA-14635). One deadline holds for all of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from store.messages import ReadDone, WriteDone
from store.runtime import DiskError, Future

if TYPE_CHECKING:
    from store.coordinator import Coordinator, Want


class Read:
    def __init__(self, coordinator: Coordinator, key: bytes, want: Want) -> None:
        self._c = coordinator
        self._key = key
        self._want = want
        c = coordinator
        place = c.place(key)
        order = place.order
        n = len(place.homes)
        self._place = place
        self._ring = c.ring.version
        self._answers: dict[str, bytes] = {}
        self._encoded: bytes | None = None
        """What the first R together know, once they have answered."""
        self._known = b""
        """What all together know that have answered since."""
        self._holders: set[str] = set()
        """Who is known to hold all of `_encoded` durably; followed only while that is waited for."""
        self._hinted: dict[str, str] = {}
        """Home replica -> the fallback that was sent a hint for it, since R nodes have to hold what is answered."""
        self._repair_id = 0
        self._overdue = False
        """Whether some repair was not acknowledged in time, so that it no longer counts as coming."""
        self._deadline_ns = c.runtime.clock.mono_ns() + want.timeout_ns
        self.future = c.runtime.future()
        """The encoded join of what R know, or what was lacking (`Short`) when the time was over."""
        # With home replicas asked for, those that seem down are asked too: they alone can tell.
        asked = [home for home in place.homes if not c.sloppy or c.gossip.up(home) or want.primaries]
        rest = list(order[n:]) if len(asked) == n else [node for node in order if node not in asked]
        if c.sloppy:
            seen = sum(1 for home in asked if c.gossip.up(home)) if want.primaries else len(asked)
            while seen < n and rest:
                asked.append(rest.pop(0))
                seen += 1
        self._rest = rest if c.sloppy else []
        self._asked = asked
        self._id = c.calls.open(self._answered, ReadDone, asked)
        self._closed = False
        c.rounds.begin(key)
        self._timer = c.runtime.call_later(min(c.replica_timeout_ns, want.timeout_ns), self._late)
        self._ask(list(asked))

    def _ask(self, nodes: list[str]) -> None:
        c = self._c
        frame = b""
        for node in nodes:
            if node == c.config.node:
                self._read_self()
            else:
                frame = frame or c.rounds.read(self._id, self._key, self._ring)
                c.runtime.net.send(node, frame)

    def _read_self(self) -> None:
        c = self._c
        record = c.held(self._key, self._place)
        durable = c.unsynced(self._key, self._place)
        if durable is None:
            self._take(c.config.node, record)
        else:
            durable.add_done_callback(partial(self._read_durably, record))

    def _read_durably(self, record: bytes, durable: Future) -> None:
        if durable.exception() is None and not self._closed:  # a disk may be slower than the request may take
            self._take(self._c.config.node, record)

    def _answered(self, src: str, message: ReadDone) -> None:
        self._take(src, message.record)

    def _take(self, src: str, record: bytes) -> None:
        self._answers[src] = record
        if self._encoded is not None:
            self._take_late(src, record)
            return
        want = self._want
        if len(self._answers) >= want.responders and (
            not want.primaries or self._primaries(self._answers) >= want.primaries
        ):
            self._settle()

    def _primaries(self, nodes: Iterable[str]) -> int:
        homes = self._place.homes
        return sum(1 for node in nodes if node in homes)

    def _settle(self) -> None:
        """R have answered: what they know together is the answer, once R of them hold it where repair is blocking."""
        answers = self._answers
        encoded = self._encoded = self._known = self._c.joined(self._key, answers.values())
        behind = [node for node, held in answers.items() if held != encoded]
        repair = self._place.terms.read_repair
        if not behind or repair == "off":
            self._finish(encoded)
            return
        if repair == "async":
            self._finish(encoded)
            for node in behind:
                self._repair(node, encoded)
            return
        self._holders.update(node for node in answers if node not in behind)
        self._repair_id = self._c.calls.open(self._repaired, WriteDone, answers)
        for node in behind:
            self._repair(node, encoded)
        self._suffice()  # a fallback that is behind may have answered beside enough that are not

    def _is_fallback(self, node: str) -> bool:
        return node not in self._place.homes

    def _repair(self, node: str, record: bytes) -> None:
        """Brings a home replica that is behind up to date; while R nodes are wanted to hold the answer, a fallback too."""
        c = self._c
        waiting = not self.future.done()
        target = ""
        if self._is_fallback(node):
            target = self._lacking() if waiting else ""
            if not target:
                return
            self._hinted[target] = node
        c.metrics.read_repairs += 1
        if node != c.config.node:
            id = self._repair_id if waiting else 0
            c.runtime.net.send(node, c.rounds.write(id, self._key, record, target, self._ring))
            return
        try:
            durable = (
                c.hints.store(target, self._key, record) if target else c.replica.join(self._key, record)
            )
        except DiskError:
            return  # as silent as a peer with such a disk
        if durable is None:
            self._hold(node)
        elif waiting:
            durable.add_done_callback(self._held_durably)

    def _lacking(self) -> str:
        """A home replica that a fallback may hold the answer for; empty when those who hold it, or are just being sent
        it, suffice."""
        homes = self._place.homes
        coming = {*self._holders, *self._hinted.values()}
        if not self._overdue:
            coming.update(home for home in homes if home in self._answers)
        if len(coming) >= self._want.responders:
            return ""
        return next((home for home in homes if home not in coming and home not in self._hinted), "")

    def _held_durably(self, durable: Future) -> None:
        if durable.exception() is None:
            self._hold(self._c.config.node)

    def _repaired(self, src: str, _: WriteDone) -> None:
        self._hold(src)

    def _hold(self, node: str) -> None:
        """`node` holds all of the answer."""
        self._holders.add(node)
        self._suffice()

    def _suffice(self) -> None:
        """Answers the client once enough hold the answer."""
        want = self._want
        if (
            not self.future.done()
            and self._encoded is not None
            and len(self._holders) >= want.responders
            and self._primaries(self._holders) >= want.primaries
        ):
            self._finish(self._encoded)

    def _finish(self, encoded: bytes) -> None:
        self.future.set_result(encoded)
        if len(self._answers) == len(self._asked) or self._place.terms.read_repair == "off":
            self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._timer.cancel()
            self._c.calls.close(self._id)
            self._c.calls.close(self._repair_id)
            self._c.rounds.end(self._key)

    def _take_late(self, src: str, record: bytes) -> None:
        """An answer after R: perhaps one more that holds the answer, or one more that is to be brought up to it."""
        known = self._known = self._c.joined(self._key, (self._known, record))
        if record == known:
            self._hold(src)
        else:
            self._repair(src, known)
        if self.future.done() and len(self._answers) == len(self._asked):
            self._close()

    def _late(self) -> None:
        c = self._c
        now = c.runtime.clock.mono_ns()
        for node in self._asked:
            if node not in self._answers and node != c.config.node:
                c.gossip.missed(node)
        if self.future.done():
            self._close()
            return
        if now >= self._deadline_ns:
            if self._encoded is None:
                short = self._want.short(len(self._answers), self._primaries(self._answers))
            else:
                short = self._want.short(len(self._holders), self._primaries(self._holders), "repair")
            self.future.set_result(short)
            self._close()
            return
        if self._encoded is not None:
            self._overdue = True
            for node in [n for n in self._answers if self._is_fallback(n) and n not in self._holders]:
                self._repair(node, self._known)
        more, self._rest = self._rest, []
        self._asked += more
        self._ask(more)
        wait = min(c.replica_timeout_ns, max(self._deadline_ns - now, 1))
        self._timer = c.runtime.call_later(wait, self._late)
