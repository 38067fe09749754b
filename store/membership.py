"""Changes of the ring: join, leave and replace, in phases that every member has to acknowledge durably.

A phase is entered only after everybody who takes part has acknowledged the one before, so that two coordinators are never more
than one phase apart, and neighbouring phases get on with each other:

    settled   writes and reads: the old homes
    joint     writes: W of the old homes and W of the new; reads: the old. The new homes fetch what they are to hold
    moved     writes: as before; reads: the new
    settling  writes and reads: the new. What is no longer owned is handed over, and forgotten
    settled   the change is over

Nobody leads: the next state follows from the present one alone, and whoever sees that all is done makes the step. Only the start
of a change is a choice; of two made at once the larger version stays, and the other cannot have gone any further, because whoever
started the larger one never acknowledged it. docs/decisions/008-membership.md gives the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from store import messages, ring
from store.config import NAME_RULE, Config, is_name
from store.gossip import Gossip
from store.hints import Hints
from store.log import RING, Log
from store.messages import RingAsk, RingJoin, RingProgress, RingState
from store.replica import Replica, packed, unpacked
from store.ring import Change, Ring, State
from store.runtime import BadMessage, Future, Runtime
from store.transfer import Transfer

REPEAT_TELLING_NS = 200_000_000
"""A node that is behind is told of the present ring so often at most, however many of its messages are refused."""


class NotNow(Exception):
    """This change of the ring cannot begin; the sentence says why."""


class Membership:
    """This node's part in the changes of the ring that it knows of."""

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        ring: Ring,
        log: Log,
        gossip: Gossip,
        hints: Hints,
        replica: Replica,
        transfer: Transfer,
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._ring = ring
        self._log = log
        self._gossip = gossip
        self._hints = hints
        self._replica = replica
        self._transfer = transfer
        self._progress: dict[str, RingProgress] = {}
        """What members have said of the present version."""
        self._waker: Future | None = None
        self._replaced = False
        """Whether another node has taken this one's place without asking it."""
        self._told_ns: dict[str, int] = {}
        self._was_member = self.stays = config.node in ring.state.members
        """`stays`: whether this node is a member that is not leaving, and so may stand in for others."""
        self.known = {*config.peers}
        """Whoever may have something to say: the nodes of the configuration, and all that were ever members."""
        self.courted: list[str] = []
        """Whom an operator wants to come in, and who are being asked just now whether they are there."""
        self.listeners: list[Callable[[], None]] = []
        """Called after every change of the ring's state, at once."""
        hints.departed = self._departed
        hints.retarget = self._retarget

    # Recovery and start.

    def restore(self, payload: bytes) -> None:
        """Replays one log payload of the kind RING."""
        state, previous, replaced = unpacked(payload)
        before = self._ring.state
        if self._ring.adopt(ring.decode(state)):
            self._ring.previous = int.from_bytes(previous, "big")
            self._look_for_oneself(before)
            self._replaced = self._hints.closed = replaced == b"1"

    def payload(self) -> bytes | None:
        """The log payload of the present ring; None where it is the first, which nobody needs to be told."""
        if not self._ring.version:
            return None
        previous = self._ring.previous.to_bytes(8, "big")
        return packed(RING, ring.encode(self._ring.state), previous, b"1" if self._replaced else b"0")

    def start(self) -> None:
        """Goes on with what the log knows to be in progress."""
        if self._ring.version or self._config.members or self._config.join:
            self._follow()
        if self._ring.version:
            self._runtime.spawn(self._take_part(self._ring.version, None), name="membership")
        if self._config.join and not self._was_member:
            self._runtime.spawn(self._ask_to_be_taken_in(), name="join")

    async def _ask_to_be_taken_in(self) -> None:
        address = self._config.peers[self._config.node]
        turn = 0
        while self._config.node not in self._ring.state.members:
            others = [p for p in sorted({*self._config.peers, *self._ring.nodes}) if p != self._config.node]
            self._send(others[turn % len(others)], RingJoin(address))
            turn += 1
            await self._runtime.sleep(self._config.gossip_interval_ms * 1_000_000)

    # The start of a change.

    @property
    def members(self) -> dict[str, str]:
        """Who takes part now, and where."""
        return self._ring.state.members

    def begin_join(self, node: str, address: str) -> Future:
        """Takes a node in. The future is set once this node has the change durably. Raises NotNow."""
        return self._begin(*self.joining(node, address))

    def joining(self, node: str, address: str) -> tuple[State, dict[str, str], Change]:
        """What a join would begin with: the state, who takes part then, the change. Raises NotNow."""
        state = self._free()
        if node in state.members:
            raise NotNow(f"{node} is a member already")
        self._admit(state, node)
        members = {**state.members, node: self._address_of(node, address, state.members)}
        return state, members, Change("join", node, "", ring.owners_with(state.owners, node))

    def begin_leave(self, node: str) -> Future:
        """Lets a node go, which stays until others hold what it holds. Raises NotNow."""
        state = self._free()
        if node not in state.members:
            raise NotNow(f"{node} is no member")
        if len(state.members) <= self._config.n:
            raise NotNow(
                f"{len(state.members)} members hold {self._config.n} replicas of every key: let another join first"
            )
        return self._begin(
            state, state.members, Change("leave", node, "", ring.owners_without(state.owners, node))
        )

    def begin_replace(self, dead: str, node: str, address: str) -> Future:
        """Puts a node in the place of one that is gone for ever. Raises NotNow."""
        return self._begin(*self.replacing(dead, node, address))

    def replacing(self, dead: str, node: str, address: str) -> tuple[State, dict[str, str], Change]:
        """As `joining`, for a replacement. Raises NotNow."""
        state = self._free()
        if dead not in state.members:
            raise NotNow(f"{dead} is no member")
        if node in state.members:
            raise NotNow(f"{node} is a member already")
        self._admit(state, node)
        if dead == self._config.node:
            raise NotNow(f"{dead} lives: ask another node, or let it leave")
        members = {m: a for m, a in state.members.items() if m != dead}
        members[node] = self._address_of(node, address, members)
        owners = ring.owners_replaced(state.owners, dead, node)
        return state, members, Change("replace", node, dead, owners)

    @staticmethod
    def _admit(state: State, node: str) -> None:
        """It missed what was reaped since, if it was replaced, and would not know that it has to forget what it holds."""
        if not is_name(node):
            raise NotNow(f"a node's name is made of {NAME_RULE}, not {node[:80]!r}")
        if node in state.replaced:
            raise NotNow(f"{node} was replaced: give it another name, and an empty disk")

    def _address_of(self, node: str, address: str, others: Mapping[str, str]) -> str:
        """What was given, or what the configuration knows."""
        address = address or self._config.peers.get(node, "")
        host, _, port = address.rpartition(":")
        real = bool(self._config.peers.get(self._config.node))  # in a simulation nobody has any
        if real and not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise NotNow(f"the address of {node} must be host:port, not {address!r}")
        for other, taken in others.items():
            if real and taken == address:
                raise NotNow(f"{address} is the address of {other}: give that of {node}")
        return address

    def _free(self) -> State:
        state = self._ring.state
        if state.change is not None:
            change = state.change
            raise NotNow(f"one change at a time: the {change.kind} of {change.node} is {state.phase}")
        if self._config.node not in state.members:
            raise NotNow(f"{self._config.node} is no member of the ring: ask one that is")
        return state

    def _begin(self, state: State, members: dict[str, str], change: Change) -> Future:
        ordered = {name: members[name] for name in sorted(members)}
        replaced = (*state.replaced, change.dead) if change.dead else state.replaced
        durable = self._adopt(State(state.epoch + 1, state.owners, ordered, "joint", change, replaced))
        assert durable is not None, "a state with the next epoch is newer"
        self._spread(ordered)
        return durable

    # What others say.

    def received(self, src: str, message: RingState | RingProgress | RingAsk | RingJoin) -> None:
        """Raises BadMessage."""
        match message:
            case RingState(encoded):
                try:
                    state = ring.decode(encoded)
                except msgspec.DecodeError as problem:
                    raise BadMessage(f"no ring: {problem}") from None
                if not ring.is_sound(state):
                    raise BadMessage("no ring is ever in such a state")
                self._adopt(state)
            case RingAsk():
                self.tell(src)
            case RingProgress():
                if message.version == self._ring.version:
                    known = self._progress.get(src)
                    self._progress[src] = message
                    if known is None or known.done != message.done:
                        self._wake()
                self.heard(src, message.version)
            case RingJoin(address):
                state = self._ring.state
                if state.change is None and src not in state.members and src not in self.courted:
                    try:
                        self.begin_join(src, address)
                    except NotNow:
                        return  # it asks again

    def heard(self, src: str, version: int) -> None:
        """A peer is at this version of the ring: whoever is behind is told."""
        if version < self._ring.version:
            self.tell(src)
        elif version > self._ring.version:
            self._send(src, RingAsk())

    def admits(self, src: str, version: int) -> bool:
        """Whether a request made under another version of the ring may be served: by a newer one, or by the one just before.

        A node that is being replaced is nobody's neighbour: the others do not wait for it, and so do not listen to it.
        """
        known = self._ring.version
        if version > known:
            self._send_seldom(src, RingAsk())
            return True
        self._send_seldom(src, RingState(ring.encode(self._ring.state)))
        return version == self._ring.previous and src != self._ring.state.dead

    def serves(self, src: str, message: messages.Write | messages.Read) -> bool:
        """Whether to serve what was asked under another version of the ring than this node's."""
        if not self.admits(src, message.ring):
            return False
        self._transfer.ahead |= message.ring > self._ring.version
        if isinstance(message, messages.Read):
            return True
        return (
            self.stays
            if message.hint_for
            else self._config.node in self._ring.state.members or self._transfer.ahead
        )

    def may_exchange(self, src: str) -> bool:
        """Whether to compare with a peer: not with one that was replaced and has not heard of it."""
        if src in self._ring.state.members:
            return True
        self._send_seldom(src, RingState(ring.encode(self._ring.state)))
        return False

    def keep_for_homes(self, key: bytes, record: bytes) -> Future:
        """Takes a write that was meant for this node as a home replica, which it is no longer: hints for those who are.

        The future is set once they are durable.
        """
        kept = self._runtime.future()
        self._runtime.spawn(self._all_kept(self._keep(key, record), kept), name="keep-for-homes")
        return kept

    @staticmethod
    async def _all_kept(waiting: list[Future], kept: Future) -> None:
        for durable in waiting:
            await durable
        kept.set_result(None)

    def tell(self, dst: str) -> None:
        self._send(dst, RingState(ring.encode(self._ring.state)))

    def _send_seldom(self, dst: str, message: messages.Message) -> None:
        now_ns = self._runtime.clock.mono_ns()
        if now_ns - self._told_ns.get(dst, -REPEAT_TELLING_NS) >= REPEAT_TELLING_NS:
            self._told_ns[dst] = now_ns
            self._send(dst, message)

    def _send(self, dst: str, message: messages.Message) -> None:
        self._runtime.net.send(dst, messages.encode(message))

    def _spread(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            if node != self._config.node:
                self.tell(node)

    def steady(self) -> tuple[str, ...] | None:
        """All nodes that may know anything of any key; None while that is changing."""
        return None if self._ring.state.change else self._ring.nodes

    # Following the ring.

    def _adopt(self, state: State) -> Future | None:
        """Goes over to a newer state. The future is set once it is durable here; None if it is not newer."""
        if len(state.owners) != self._ring.token_ranges:
            self._runtime.log(
                f"a ring of {len(state.owners)} token ranges is refused; this node has {self._ring.token_ranges}"
            )
            return None
        before = self._ring.state
        durable = None
        if ring.version_of(state) > self._ring.version:
            self._ring.adopt(state)
            self._transfer.ahead = False
            self._progress.clear()
            if state.phase == "joint":
                self._transfer.fetched.clear()
            self._runtime.log(f"ring: epoch {state.epoch}, {_told(state)}")
            self._look_for_oneself(before)
            durable = self._log.append(self.payload() or b"")
            if self._config.node in before.members and self._config.node not in state.members:
                self._runtime.log(
                    "replaced: what this node holds is not its own any more" if self._replaced else "left"
                )
            self._follow()
            self._wake()
            self._runtime.spawn(self._take_part(self._ring.version, durable), name="membership")
        return durable

    def _look_for_oneself(self, before: State) -> None:
        """What the step to the present state, perhaps over several others, made of this node."""
        me, state = self._config.node, self._ring.state
        self.known.update(state.members)
        if me in state.members:
            self._was_member, self._replaced = True, False
        elif me in before.members:
            self._replaced = before.leaver != me
        # At once, though what is held is forgotten only when the change is over, and certain to stay.
        self._hints.closed = self._replaced

    def _follow(self) -> None:
        if self._ring.version:
            for name, address in self._ring.state.members.items():
                if name != self._config.node:
                    self._runtime.net.meet(name, address)
        self.stays = self._config.node in self._ring.state.lasting()
        for listener in self.listeners:
            listener()

    def _wake(self) -> None:
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    async def _take_part(self, version: int, durable: Future | None) -> None:
        """This node's part in one phase, until the next begins."""
        if durable is not None:
            await durable
        state = self._ring.state
        me = self._config.node
        settled = state.phase == "settled"
        if not settled and me not in state.members:
            return
        said: RingProgress | None = None
        while self._ring.version == version:
            done, waits = await self._duty(state)
            if self._ring.version != version:
                return
            if settled:
                # An exchange that was on its way may still bring what is no longer owned.
                await self._pause()
                continue
            mine = RingProgress(version, done, waits)
            if mine != said:
                said = self._progress[me] = mine
                for member in self._ring.nodes:
                    if member != me:
                        self._send(member, mine)
            if all(m in self._progress and self._progress[m].done for m in state.members):
                self._adopt(ring.advanced(state))
                self._spread(state.members)
                return
            if await self._pause():
                said = None  # something may have been lost on the way: say it again

    async def _pause(self) -> bool:
        """Until some member has come further, or until it is time to look again; whether it is that time."""
        waker = self._waker = self._runtime.future()
        timer = self._runtime.call_later(self._config.gossip_interval_ms * 1_000_000, self._late, waker)
        late = await waker
        timer.cancel()
        return bool(late)

    @staticmethod
    def _late(waker: Future) -> None:
        if not waker.done():
            waker.set_result(True)

    async def _duty(self, state: State) -> tuple[bool, str]:
        """Does what this node has to do in a phase; whether it is done, and else what it waits for."""
        missing = [m for m in state.members if m != self._config.node and m not in self._progress]
        match state.phase:
            case "joint" if not missing:
                waits = await self._transfer.fetch()
            case "moved":
                waits = ""
            case "settling" | "settled" if state.phase == "settled" or not missing:
                waits = await self._hand_over(state)
            case _:
                waits = f"the acknowledgement of {', '.join(missing)}"
        return not waits, waits

    async def _hand_over(self, state: State) -> str:
        """Gives up what this node no longer owns: to those who do, as long as it is one of those whom they ask."""
        if self._config.node not in state.members:
            self._transfer.forget()
            if self._replaced:
                self._hints.forget_all()
            return ""
        waits = await self._transfer.hand_over()
        depths = self._hints.depths()
        if not waits and self._config.node == state.leaver and depths:
            waits = f"hints for {', '.join(sorted(depths))}"
        departed = sorted(filter(self._departed, depths))
        if not waits and departed:
            waits = f"hints for {', '.join(departed)}, who left"
        return waits

    # Hints for those who left.

    def _departed(self, target: str) -> bool:
        """Whether there is no handing off a hint to `target` any more. Who is replaced is gone from the first phase on; who
        leaves stays until others hold what it holds."""
        state = self._ring.state
        return target not in state.members and target != self._config.node

    async def _retarget(self, key: bytes, record: bytes) -> None:
        """Keeps what a hint for a departed node holds for the present home replicas of the key."""
        for durable in self._keep(key, record):
            await durable

    def _keep(self, key: bytes, record: bytes) -> list[Future]:
        waiting: list[Future] = []
        for home in self._ring.holders(self._ring.range_of(key), self._config.n):
            if home == self._config.node:
                durable = self._replica.join(key, record)
                waiting += [durable] if durable is not None else []
            elif not self._departed(home):
                waiting.append(self._hints.store(home, key, record))
        return waiting

    # What is told of it.

    def view(self) -> dict[str, Any]:
        """For `/admin/ring`: the state, and what a change in progress waits for."""
        state = self._ring.state
        told: dict[str, Any] = {
            "epoch": state.epoch,
            "version": f"{self._ring.version:x}",
            "phase": state.phase,
            "members": state.members,
            "change": None,
        }
        if state.change is not None:
            change = state.change
            told["change"] = {"kind": change.kind, "node": change.node, "dead": change.dead}
            told["waiting"] = {
                m: self._progress[m].waits if m in self._progress else "has not acknowledged this epoch"
                for m in state.members
                if m not in self._progress or not self._progress[m].done
            }
        return told


def _told(state: State) -> str:
    change = state.change
    if change is None:
        return f"settled, {len(state.members)} members"
    place = f" in the place of {change.dead}" if change.dead else ""
    return f"{change.kind} of {change.node}{place}: {state.phase}"


def first_members(config: Config) -> tuple[str, ...]:
    """The nodes of the first ring: all of `peers`, unless `members` names them."""
    return config.members or tuple(p for p in config.peers if not (config.join and p == config.node))
