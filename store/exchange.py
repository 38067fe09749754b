"""The exchange of one token range between two home replicas: compare trees, descend where they differ, repair both ways.

The asker drives. The answerer keeps nothing between questions but what it has begun to send, so either may die, pause or be
cut off at any moment: then the exchange has failed, what it repaired stays, and the next one begins anew.

    Roots -> RootsDone          which ranges differ
    Compare -> CompareDone      the hashes of the children of the nodes that differ, level by level
    (a pause) Compare           once more: writes that were on their way have arrived
    Entries -> EntriesDone      the digests of the entries in those nodes; back come the entries that the asker lacks
    Repair -> RepairDone        and those that the answerer lacks
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from store import messages, wire
from store.config import Config
from store.merkle import WHOLE, TokenRange, Tree
from store.messages import (
    Compare,
    CompareDone,
    Entries,
    EntriesDone,
    More,
    Repair,
    RepairDone,
    Roots,
    RootsDone,
)
from store.quorum import Calls, Gather
from store.replica import Replica
from store.ring import token
from store.rounds import Rounds
from store.runtime import DiskError, Future, Runtime
from store.wire import DIGEST_BYTES, HASH_BYTES, SHIFTS

Reply = TypeVar("Reply")

ANSWER_NS = 3_000_000_000
"""How long an answer may take, the time that the rate limit asks for not counted."""

CONFIRM_NS = 100_000_000
"""How long a write that one replica has may be on its way to the other before it counts as missing there."""

CONFIRMATIONS_MAX = 3
"""As long as differences vanish there are writes on their way, and among what is left may be newer ones: of keys that are
written often one confirmation leaves some, for which a whole token range would be gone through."""

DIRECT_MAX = 16
"""With so few entries they are compared at once: the descent would ask more."""

PER_NODE = 4
"""Entries in a node at which the descent ends: going on would cost as much as naming them."""

FIRST_BITS = 4
STEP_BITS = 2
NODES_MAX = 4_096
"""Nodes in one question."""

ENTRIES_MAX = 16_384
"""Digests in one question, unless a single node holds more."""

PAGE_BYTES = 128 << 10
"""Records in one frame, unless a single one is larger."""

SLICE = 4_096
SLICE_PAUSE_NS = 1_000_000
"""A long piece of work rests so long after each slice, for requests to pass."""

SENDING_MAX = 64
"""Answers begun and not finished, of all askers together; the oldest is forgotten first."""


class Counters(msgspec.Struct):
    """One life's counters of anti-entropy, read by whoever publishes them."""

    exchanges: int = 0
    """Of one token range with one peer, begun by this node."""
    failed: int = 0
    """Those of them that did not come to their end."""
    differing: int = 0
    """Those of them whose roots differed."""
    bytes_sent: int = 0
    """All frames of exchanges, whoever began them."""
    record_bytes_sent: int = 0
    """Keys and records in them."""
    keys_sent: int = 0
    keys_repaired: int = 0
    """Records here that an exchange changed."""
    versions_skipped: int = 0
    """Exchanges not made because the peer hashes otherwise."""
    rebuilds: int = 0
    rebuild_failures: int = 0
    build_ns: int = 0
    """How long the latest building of a tree took, its rests included."""
    damaged_frames: int = 0
    """Found on the disk by rebuilds."""
    keys_rewritten: int = 0
    """Records that the disk had lost and memory had not."""


class Failed(Exception):
    """This exchange comes to nothing: the peer is silent, or no longer what it was."""


class Bucket:
    """A token bucket of bytes: who takes more than there is waits, first come first served."""

    def __init__(self, runtime: Runtime, bytes_per_second: int) -> None:
        self._runtime = runtime
        self._ns_per_byte = 1e9 / bytes_per_second
        self._paid_ns = 0
        """When all that was taken is paid for."""

    async def take(self, amount: int) -> None:
        now = self._runtime.clock.mono_ns()
        # A second's worth may be saved up.
        self._paid_ns = max(self._paid_ns, now - 1_000_000_000) + int(amount * self._ns_per_byte)
        if self._paid_ns > now:
            await self._runtime.sleep(self._paid_ns - now)


class Exchange:
    """Both sides of exchanges, for one node."""

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        replica: Replica,
        calls: Calls,
        rounds: Rounds,
        counters: Counters,
    ) -> None:
        self._runtime = runtime
        self._replica = replica
        self._calls = calls
        self._rounds = rounds
        self._counters = counters
        self._token_ranges = config.token_ranges
        self.version = config.hash_version
        self._frame_bytes_max = config.frame_bytes_max
        rate = config.anti_entropy_bytes_per_second
        self._bucket = Bucket(runtime, rate)
        self._answer_ns = ANSWER_NS + 2_000_000_000 * PAGE_BYTES // rate
        self._sessions = 0
        self._sending: dict[tuple[str, int], list[bytes]] = {}
        """Keys still to be sent, by who asked and under which id."""

    # The asker.

    async def roots(self, peer: str, ranges: Sequence[int]) -> tuple[RootsDone | None, Future | None]:
        """What the peer says to this node's roots, None if nothing; and what to wait for before they can be relied on."""
        held = self._replica.ranges
        packed = b"".join([held[r].built().root.to_bytes(8, "big") for r in ranges])
        settled = self._replica.settled()
        self._counters.exchanges += len(ranges)
        try:
            return await self._ask(peer, Roots(0, self.version, tuple(ranges), packed), RootsDone), settled
        except Failed:
            return None, settled

    async def reconcile(self, peer: str, token_range: int, their_depth: int, their_keys: int) -> bool:
        """Repairs a range whose roots differ, both ways. True when every confirmed difference is durably repaired."""
        self._counters.differing += 1
        self._sessions += 1
        shift = SHIFTS[self._sessions % len(SHIFTS)]
        try:
            if not their_keys:
                return await self._give(peer, token_range, list(self._replica.ranges[token_range].records))
            depth, nodes = await self._descend(peer, token_range, shift, their_depth, their_keys)
            nodes = await self._confirmed(peer, token_range, depth, shift, nodes)
            return not nodes or await self._repair(peer, token_range, depth, shift, nodes)
        except (Failed, DiskError, ValueError):
            return False

    async def _confirmed(
        self, peer: str, token_range: int, depth: int, shift: int, nodes: list[int]
    ) -> list[int]:
        """Those of the nodes that differ still when writes have had time to arrive."""
        for _ in range(CONFIRMATIONS_MAX):
            before = len(nodes)
            if before:
                await self._runtime.sleep(CONFIRM_NS)
                nodes = await self._compare(peer, token_range, depth, 0, shift, nodes)
            if len(nodes) == before:
                break
        return nodes

    async def _descend(
        self, peer: str, token_range: int, shift: int, their_depth: int, their_keys: int
    ) -> tuple[int, list[int]]:
        """(depth, nodes there that differ), as deep as it pays."""
        held = self._replica.ranges[token_range]
        keys = len(held.records)
        if keys <= DIRECT_MAX:
            return 0, [0]
        enough = (max(keys, their_keys) // PER_NODE).bit_length()
        goal = min(held.built().depth, their_depth, enough)
        depth, nodes = 0, [0]
        while depth < goal and nodes:
            bits = min(STEP_BITS if depth else FIRST_BITS, goal - depth)
            nodes = await self._compare(peer, token_range, depth, bits, shift, nodes)
            depth += bits
        return depth, nodes

    async def _compare(
        self, peer: str, token_range: int, depth: int, bits: int, shift: int, nodes: list[int]
    ) -> list[int]:
        """Of the descendants `bits` below these nodes those that differ."""
        differing: list[int] = []
        for begin in range(0, len(nodes), NODES_MAX):
            page = nodes[begin : begin + NODES_MAX]
            level = _level(self._replica.ranges[token_range].built(), depth + bits)
            below = [n for node in page for n in range(node << bits, node + 1 << bits)]
            hashes = b"".join([wire.shown(level[n], shift, HASH_BYTES) for n in below])
            packed = wire.pack_ascending(page)
            question = Compare(0, self.version, token_range, depth, bits, shift, packed, hashes)
            answer = await self._ask(peer, question, CompareDone)
            if answer.differing is None:
                raise Failed
            flags = wire.unpack_bits(answer.differing, len(below))
            differing += [n for n, flag in zip(below, flags, strict=True) if flag]
        return differing

    async def _repair(self, peer: str, token_range: int, depth: int, shift: int, nodes: list[int]) -> bool:
        """Names what is held in these nodes, takes what the peer has besides, and gives what it wants."""
        held = self._replica.ranges[token_range]
        # A node of a tree that is shallower than this one may hold too much for one question.
        finer = max(0, min(held.built().depth, depth + (len(held.records) >> depth).bit_length() - 3) - depth)
        nodes = [n for node in nodes for n in range(node << finer, node + 1 << finer)]
        depth += finer
        found = await self._scan(held, depth, set(nodes))
        complete = True
        for page in _pages(nodes, found):
            digests = [wire.shown(hash, shift, DIGEST_BYTES) for n in page for hash, _ in found.get(n, ())]
            keys = [key for n in page for _, key in found.get(n, ())]
            counts = wire.pack_numbers([len(found.get(n, ())) for n in page])
            packed = wire.pack_ascending(page)
            round = self._rounds.floors[token_range]
            question = Entries(
                0, self.version, token_range, depth, shift, packed, counts, b"".join(digests), round
            )
            answer = await self._ask(peer, question, EntriesDone)
            if answer.left < 0:
                raise Failed
            wanted = wire.unpack_bits(answer.wanted, len(keys))
            session = answer.id
            told = await self._take(answer)
            while answer.left:
                answer = await self._ask(peer, More(0, session), EntriesDone)
                if answer.left < 0:
                    raise Failed
                told |= await self._take(answer)
            # What it sent itself it wants only where more is known here now.
            give = [key for key, flag in zip(keys, wanted, strict=True) if flag and key not in told]
            give += [key for key, record in told.items() if self._replica.load(key) != record]
            complete = await self._give(peer, token_range, give) and complete
        return complete

    async def _take(self, answer: EntriesDone) -> dict[bytes, bytes]:
        """Joins what the peer sent, durably, and returns it."""
        if await self._join(answer.items, answer.round):
            raise Failed
        return dict(answer.items)

    async def _give(self, peer: str, token_range: int, keys: Sequence[bytes]) -> bool:
        rest = list(dict.fromkeys(keys))[::-1]
        complete = True
        while rest:
            items, skipped = self._items(rest)
            complete = complete and not skipped
            if items:
                repair = Repair(0, items, self._rounds.stamp(items))
                await self._settle()
                done = await self._ask(peer, repair, RepairDone, records=items)
                if (
                    done.round
                ):  # what was known when it was sent may since have been reaped: the next exchange knows more
                    risen = self._rounds.reach(token_range, done.round)
                    if risen is not None:
                        await risen
                    return False
        return complete

    async def _ask(
        self, peer: str, question: Any, expects: type[Reply], *, records: Sequence[tuple[bytes, bytes]] = ()
    ) -> Reply:
        """The peer's answer. Raises Failed when it is silent."""
        gather = Gather(self._runtime, self._calls, 1, self._answer_ns, expects=expects, asked=(peer,))
        frame = messages.encode(msgspec.structs.replace(question, id=gather.id))
        await self._send(peer, frame, records)
        answers: dict[str, Reply] = await gather.future
        if peer not in answers:
            raise Failed
        return answers[peer]

    # The answerer.

    def received(self, src: str, message: messages.ExchangeRequest) -> None:
        match message:
            case Roots():
                self._answer(src, self._compare_roots(message))
            case Compare():
                self._answer(src, CompareDone(message.id, self._differing(message)))
            case Entries():
                self._runtime.spawn(self._entries(src, message), name="exchange-entries")
            case More():
                self._runtime.spawn(self._more(src, message.id, message.session, b""), name="exchange-more")
            case Repair():
                self._runtime.spawn(self._repaired(src, message), name="exchange-repair")

    def _compare_roots(self, message: Roots) -> RootsDone:
        if message.version != self.version or len(message.roots) != 8 * len(message.ranges):
            return RootsDone(message.id, self.version)
        differing: list[tuple[int, int, int]] = []
        busy: list[int] = []
        for i, r in enumerate(message.ranges):
            held = self._replica.ranges.get(r)
            if held is None or not held.ready:
                busy.append(r)
                continue
            tree = held.built()
            if tree.root.to_bytes(8, "big") != message.roots[8 * i : 8 * i + 8]:
                differing.append((r, tree.depth, len(held.records)))
        return RootsDone(message.id, self.version, tuple(differing), tuple(busy))

    def _differing(self, message: Compare) -> bytes | None:
        held = self._replica.ranges.get(message.token_range)
        if held is None or message.version != self.version or message.shift not in SHIFTS:
            return None
        tree = held.built()
        depth, bits = message.depth, message.bits
        if depth < 0 or not 0 <= bits <= FIRST_BITS or depth + bits > tree.depth:
            return None
        try:
            nodes = wire.unpack_ascending(message.nodes, 1 << depth)
            theirs = wire.pieces(message.hashes, HASH_BYTES, len(nodes) << bits)
        except ValueError:
            return None
        level = tree.fold(depth + bits)
        below = [n for node in nodes for n in range(node << bits, node + 1 << bits)]
        shift = message.shift
        return wire.pack_bits(
            [wire.shown(level[n], shift, HASH_BYTES) != their for n, their in zip(below, theirs, strict=True)]
        )

    async def _entries(self, src: str, message: Entries) -> None:
        if message.token_range in self._replica.ranges:
            try:
                risen = self._rounds.reach(message.token_range, message.round)
                if risen is not None:
                    await risen
            except DiskError:
                return
        theirs = self._their_entries(message)
        if theirs is None:
            self._answer(src, EntriesDone(message.id, b"", (), -1))
            return
        held = self._replica.ranges[message.token_range]
        found = await self._scan(held, message.depth, theirs.keys())
        shift = message.shift
        send: list[bytes] = []
        wanted: list[bool] = []
        for node, digests in theirs.items():
            own = {wire.shown(hash, shift, DIGEST_BYTES): key for hash, key in found.get(node, ())}
            wanted += [digest not in own for digest in digests]
            known = set(digests)
            send += [key for digest, key in own.items() if digest not in known]
        if len(self._sending) >= SENDING_MAX:
            del self._sending[next(iter(self._sending))]
        self._sending[src, message.id] = send[::-1]
        await self._more(src, message.id, message.id, wire.pack_bits(wanted))

    def _their_entries(self, message: Entries) -> dict[int, list[bytes]] | None:
        """Node -> digests of the asker's entries there; None for a question that cannot be answered."""
        if (
            message.token_range not in self._replica.ranges
            or message.version != self.version
            or message.shift not in SHIFTS
            or not 0 <= message.depth <= 64
        ):
            return None
        try:
            nodes = wire.unpack_ascending(message.nodes, 1 << message.depth)
            counts = wire.unpack_numbers(message.counts)
            digests = wire.pieces(message.digests, DIGEST_BYTES, sum(counts))
        except ValueError:
            return None
        if len(counts) != len(nodes):
            return None
        theirs: dict[int, list[bytes]] = {}
        begin = 0
        for node, count in zip(nodes, counts, strict=True):
            theirs[node] = digests[begin : begin + count]
            begin += count
        return theirs

    async def _more(self, src: str, id: int, session: int, wanted: bytes) -> None:
        """The next page of what the asker lacks."""
        rest = self._sending.get((src, session))
        if rest is None:
            self._answer(src, EntriesDone(id, b"", (), -1))
            return
        items, _ = self._items(rest)
        stamp = self._rounds.stamp(items)
        if not rest:
            self._sending.pop((src, session), None)
        try:
            await self._settle()
        except DiskError:
            return  # what cannot be made durable is nobody else's business
        await self._send(src, messages.encode(EntriesDone(id, wanted, items, len(rest), stamp)), items)

    async def _repaired(self, src: str, message: Repair) -> None:
        try:
            refused = await self._join(message.items, message.round)
        except DiskError:
            return  # silence: it may not be done
        await self._send(src, messages.encode(RepairDone(message.id, refused)))

    # Both.

    async def _join(self, items: Sequence[tuple[bytes, bytes]], round: int) -> int:
        """0 once they are joined durably, or the round in which this node refuses them. Raises DiskError."""
        refused = self._rounds.overtook(round, items)
        if refused:
            return refused
        durable: dict[Future, None] = {}
        for key, record in items:
            held = self._replica.load(key)
            future = self._replica.join(key, record)
            if future is not None:
                durable[future] = None
            self._counters.keys_repaired += self._replica.load(key) != held
        for future in durable:
            await future
        return 0

    async def _settle(self) -> None:
        """Waits until what this node holds is durable. Raises DiskError."""
        settled = self._replica.settled()
        if settled is not None:
            await settled

    def _items(self, rest: list[bytes]) -> tuple[tuple[tuple[bytes, bytes], ...], int]:
        """Takes keys off the end until a page is full: (key, record) of each, and how many do not fit any frame."""
        items: list[tuple[bytes, bytes]] = []
        size = skipped = 0
        while rest and size < PAGE_BYTES:
            key = rest[-1]
            record = self._replica.load(key)
            more = len(key) + len(record) + 16
            if items and size + more > PAGE_BYTES:
                break
            rest.pop()
            if more + 1_024 > self._frame_bytes_max:
                skipped += 1
                self._runtime.log(f"{key!r} is too large for any frame: anti-entropy cannot carry it")
            elif record:
                items.append((key, record))
                size += more
        return tuple(items), skipped

    async def _scan(
        self, held: TokenRange, depth: int, nodes: Container[int]
    ) -> dict[int, list[tuple[int, bytes]]]:
        """Node -> (hash, key) of every entry in it, in slices."""
        found: dict[int, list[tuple[int, bytes]]] = {}
        ranges, shift, records = self._token_ranges, 64 - depth, held.records
        keys = list(records)
        for begin in range(0, len(keys), SLICE):
            if begin:
                await self._runtime.sleep(SLICE_PAUSE_NS)
            for key in keys[begin : begin + SLICE]:
                key_token = token(key)
                node = (key_token * ranges & WHOLE) >> shift
                if node in nodes:
                    record = records.get(key)
                    if record is not None:
                        found.setdefault(node, []).append((held.hash_of(key_token, record), key))
        return found

    def _answer(self, src: str, answer: messages.ExchangeReply) -> None:
        """Sends an answer as soon as what it speaks of is durable; after a disk error, never."""
        frame = messages.encode(answer)
        settled = self._replica.settled()
        if settled is None:
            self._post(src, frame)
        else:
            settled.add_done_callback(lambda done: done.exception() or self._post(src, frame))

    def _post(self, dst: str, frame: bytes) -> None:
        self._counters.bytes_sent += len(frame)
        self._runtime.net.send(dst, frame)

    async def _send(self, dst: str, frame: bytes, records: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Sends a frame, as fast as the limit allows."""
        self._counters.keys_sent += len(records)
        self._counters.record_bytes_sent += sum(len(key) + len(record) for key, record in records)
        await self._bucket.take(len(frame))
        self._post(dst, frame)


def _level(tree: Tree, depth: int) -> Sequence[int]:
    if depth > tree.depth:
        raise Failed
    return tree.fold(depth)


def _pages(nodes: list[int], found: dict[int, list[tuple[int, bytes]]]) -> Iterator[list[int]]:
    """The nodes, so many at a time that one question can name their entries."""
    page: list[int] = []
    entries = 0
    for node in nodes:
        count = len(found.get(node, ()))
        if page and (len(page) >= NODES_MAX or entries + count > ENTRIES_MAX):
            yield page
            page, entries = [], 0
        page.append(node)
        entries += count
    if page:
        yield page
