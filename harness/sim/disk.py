"""A simulated disk: a page cache, the writes not yet synced, and what a power loss leaves of them.

Appends reach the page cache at once. `fsync` makes durable what was written before it was called, and takes simulated time;
`fsync_dir` does the same for names. A kill keeps the page cache. A power loss keeps any subset of the unsynced writes: what
is missing in the middle of a file reads as zeros, and some of the kept ones are torn at 512-byte sectors.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush

from harness.sim.draws import Draws, Latencies, table_of
from harness.sim.future import Future
from harness.sim.loop import Gate, SimLoop
from harness.sim.trace import Trace
from store.runtime import DiskError

SECTOR_BYTES = 512

SYNC_NS = table_of(((0, 200_000), (700, 500_000), (990, 2_000_000), (1000, 8_000_000)))
"""An SSD with a queue: mostly half a millisecond, now and then eight."""

READ_BYTES = 4096
"""What is lost at a time where a disk cannot read."""

SPELL_NS = 2_000_000_000
BUSY_ONE_IN = 4
BUSY_FACTOR = 20
"""In one spell of two seconds out of four a disk has other work (a journal, a neighbour), and syncs take that much longer.

Without such spells next to nothing would ever be unsynced when the power fails.
"""

SETTLE_WRITES = 4096
"""So many writes are listed before the durable ones are applied."""

_TRUNCATE = b""
"""As a pending write's content: not a write but a cut at its offset (empty appends are not recorded)."""


class _File:
    """An inode: its writes in order, what the page cache shows of them, and how many are durable.

    Writes are only listed; the two images of the content are brought up to date when somebody looks.
    """

    __slots__ = ("applied", "cache", "cached", "durable", "lost", "size", "synced", "unreadable", "writes")

    def __init__(self, content: bytes = b"") -> None:
        self.writes: list[tuple[int, bytes]] = []
        """(offset, content), the first `applied` of all time not among them."""
        self.applied = 0
        self.synced = 0
        """How many writes of all time are durable."""
        self.size = len(content)
        self.durable = bytearray(content)
        """The first `applied` writes of all time."""
        self.lost: set[int] = set()
        """Writes that a failed fsync has dropped: the page cache shows them as clean, and the platter never gets them."""
        self.unreadable: set[int] = set()
        """Sectors that the disk cannot read."""
        self.cache = bytearray(content)
        self.cached = 0
        """What the page cache shows: `cache` holds the first `cached` writes of all time."""

    @property
    def last(self) -> int:
        """How many writes of all time there are."""
        return self.applied + len(self.writes)

    def content(self) -> bytearray:
        for offset, content in self.writes[self.cached - self.applied :]:
            _apply(self.cache, offset, content)
        self.cached = self.last
        return self.cache

    def settle(self) -> None:
        """Applies the durable writes and forgets them: only what may still be lost is left in `writes`."""
        self.content()
        done = self.synced - self.applied
        for number, (offset, content) in enumerate(self.writes[:done], start=self.applied):
            if number not in self.lost:
                _apply(self.durable, offset, content)
        del self.writes[:done]
        self.applied = self.synced


def _apply(image: bytearray, offset: int, content: bytes) -> None:
    if content is _TRUNCATE:
        del image[offset:]
    elif offset == len(image):
        image += content
    else:
        if len(image) < offset:
            image.extend(bytes(offset - len(image)))  # a hole
        image[offset : offset + len(content)] = content


class Lost:
    """What a power loss really took: counters that tell a fault which bit from one that did not."""

    __slots__ = ("names", "torn", "writes")

    def __init__(self) -> None:
        self.writes = 0
        self.torn = 0
        self.names = 0

    @property
    def total(self) -> int:
        return self.writes + self.torn + self.names


class Platter:
    """One node's disk through all of its lives."""

    def __init__(self, node: str, draws: Draws) -> None:
        self.node = node
        self.names: dict[str, _File] = {}
        self.durable_names: dict[str, _File] = {}
        self.pending: list[Callable[[dict[str, _File]], None]] = []
        """Changes of names that no `fsync_dir` has covered yet."""
        self.pending_applied = 0
        self.power_losses = 0
        self.factor = 1
        """By how much the present spell slows syncs down."""
        self.spell_ends_ns = 0
        self.slowed_by = 1
        """A fault: every sync takes so many times as long."""
        self.fsyncs_to_fail = 0
        """A fault: so many of the next fsyncs of files fail, and drop what they were to make durable."""
        self.full = False
        """A fault: no append has room."""
        self.hits = 0
        """How many syncs and appends a fault has touched."""
        self.rots = 0
        self.latencies = Latencies(draws.seed, SYNC_NS, "fsync", node)
        self._draws = draws

    def enter_spell(self, now_ns: int) -> None:
        spell = now_ns // SPELL_NS
        busy = self._draws.one_in(BUSY_ONE_IN, "busy", self.node, spell)
        self.factor = BUSY_FACTOR if busy else 1
        self.spell_ends_ns = (spell + 1) * SPELL_NS

    def sync_ns(self, now_ns: int) -> int:
        """How long a sync that begins now will take."""
        if now_ns >= self.spell_ends_ns:
            self.enter_spell(now_ns)
        if self.slowed_by > 1:
            self.hits += 1
        return self.latencies() * self.factor * self.slowed_by

    def unsynced(self) -> int:
        """How many writes and names only the page cache holds."""
        files = {id(file): file for file in (*self.names.values(), *self.durable_names.values())}
        return sum(file.last - file.synced for file in files.values()) + len(self.pending)

    def at_risk(self) -> int:
        """How many writes to files that would survive a power loss are not durable."""
        return sum(file.last - file.synced for file in self.durable_names.values())

    def power_loss(self, *, written_back: bool = True) -> Lost:
        """Leaves a drawn subset of what was not synced, as the next life will find it; nothing of it where the cache had
        not begun to be written back."""
        draws, node, number = self._draws, self.node, self.power_losses
        self.power_losses += 1
        lost = Lost()
        for k, change in enumerate(self.pending):
            if draws.one_in(2, "power-name", node, number, self.pending_applied + k):
                change(self.durable_names)
            else:
                lost.names += 1
        self.pending_applied += len(self.pending)
        self.pending.clear()
        for name, file in self.durable_names.items():
            file.settle()
            # Sometimes the cache had just been written back, or had not been at all; mostly it is in between.
            mood = draws.below(8, "power-mood", node, number, name) if written_back else 0
            for k, (offset, content) in enumerate(file.writes, start=file.applied):
                if mood == 0 or (mood > 1 and draws.one_in(3, "power-write", node, number, name, k)):
                    lost.writes += 1
                elif mood > 1 and content and draws.one_in(2, "power-torn", node, number, name, k):
                    lost.torn += self._tear(file.durable, offset, content, number, name, k)
                else:
                    _apply(file.durable, offset, content)
            file.applied = file.synced = file.cached = file.last
            file.writes.clear()
            file.lost.clear()
            file.cache = bytearray(file.durable)
            file.size = len(file.durable)
        self.names = dict(self.durable_names)
        return lost

    def snapshot(self) -> dict[str, bytes]:
        """A copy of every file, as the page cache shows them."""
        return {name: bytes(file.content()) for name, file in self.names.items()}

    def put_back(self, snapshot: dict[str, bytes]) -> None:
        """This copy in place of whatever was there, durably. Only for a node that does not run."""
        self.pending_applied += len(self.pending)
        self.pending.clear()
        self.names = {name: _File(content) for name, content in snapshot.items()}
        self.durable_names = dict(self.names)

    def rot(self, flips: int, *, unreadable: bool) -> list[str]:
        """Flips bits of what is durable (or makes their sectors unreadable), where they are drawn; says where.

        The page cache shows them too: rot matters once a page has left it, and was read again.
        """
        self.rots += 1
        found: list[str] = []
        for flip in range(flips):
            for file in self.names.values():
                file.settle()
            rotten = [(name, file) for name, file in sorted(self.names.items()) if file.durable]
            if not rotten:
                break
            at = self._draws.below(sum(len(f.durable) for _, f in rotten), "rot", self.node, self.rots, flip)
            name, file = rotten[0]
            for name, file in rotten:  # noqa: B007 # the one that the drawn byte falls into
                if at < len(file.durable):
                    break
                at -= len(file.durable)
            if unreadable:
                file.unreadable.add(at // READ_BYTES)
                found.append(f"{name} sector {at // READ_BYTES}")
            else:
                bit = 1 << self._draws.below(8, "rot-bit", self.node, self.rots, flip)
                file.durable[at] ^= bit
                if at < len(file.cache):
                    file.cache[at] ^= bit
                found.append(f"{name} byte {at}")
        return found

    def tear(self, size: int) -> int:
        """How much of an append of that many bytes still has room on a full disk."""
        self.hits += 1
        return self._draws.below(size + 1, "short-write", self.node, self.hits)

    def _tear(
        self, durable: bytearray, offset: int, content: bytes, number: int, name: str, write: int
    ) -> bool:
        """Writes some of the sectors that the write touches; says whether one is missing."""
        kept = missing = 0
        start = offset
        end = offset + len(content)
        while start < end:
            stop = min(end, start // SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES)
            if self._draws.one_in(2, "power-sector", self.node, number, name, write, start // SECTOR_BYTES):
                _apply(durable, start, content[start - offset : stop - offset])
                kept += 1
            else:
                missing += 1
            start = stop
        return missing > 0


class SimDisk:
    """One life's view of its node's disk (store.runtime.Disk)."""

    __slots__ = ("_code", "_gate", "_loop", "_platter", "_trace_add")

    def __init__(self, loop: SimLoop, gate: Gate, platter: Platter, trace: Trace) -> None:
        self._loop = loop
        self._gate = gate
        self._platter = platter
        self._trace_add = trace.add
        self._code = trace.code(f"fsync {platter.node}")

    def _file(self, name: str) -> _File:
        file = self._platter.names.get(name)
        if file is None:
            raise DiskError(f"no file {name!r}")
        return file

    def names(self) -> list[str]:
        return sorted(self._platter.names)

    def size(self, name: str) -> int:
        return self._file(name).size

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        file = self._file(name)
        content = file.content()
        if file.unreadable:
            first = offset // READ_BYTES
            last = (len(content) if size < 0 else min(offset + size, len(content))) // READ_BYTES
            if any(first <= sector <= last for sector in file.unreadable):
                raise DiskError(f"cannot read {name}: Input/output error")
        return bytes(content[offset:] if size < 0 else content[offset : offset + size])

    def append(self, name: str, content: bytes) -> None:
        platter = self._platter
        if platter.full:
            short = platter.tear(len(content))
            platter.full = False
            self.append(name, content[:short])
            platter.full = True
            raise DiskError(f"cannot append to {name}: no space left on device")
        file = platter.names.get(name)
        if file is None:
            file = platter.names[name] = _File()
            created = file

            def create(names: dict[str, _File]) -> None:
                names[name] = created

            platter.pending.append(create)
        if content:
            if type(content) is not bytes:
                content = bytes(content)  # the caller may reuse its buffer
            file.writes.append((file.size, content))
            file.size += len(content)

    def truncate(self, name: str, size: int) -> None:
        file = self._file(name)
        if size < file.size:
            file.writes.append((size, _TRUNCATE))
        elif size > file.size:
            file.writes.append((file.size, bytes(size - file.size)))
        file.size = size

    def rename(self, old: str, new: str) -> None:
        file = self._file(old)
        platter = self._platter
        del platter.names[old]
        platter.names[new] = file

        def rename(names: dict[str, _File]) -> None:
            if names.get(old) is file:
                del names[old]
            names[new] = file

        platter.pending.append(rename)

    def unlink(self, name: str) -> None:
        file = self._file(name)
        del self._platter.names[name]

        def unlink(names: dict[str, _File]) -> None:
            if names.get(name) is file:
                del names[name]

        self._platter.pending.append(unlink)

    def fsync(self, name: str) -> Future:
        file = self._file(name)
        loop = self._loop
        done = Future(loop.ready, self._gate.failed)
        when_ns = loop.now_ns + self._platter.sync_ns(loop.now_ns)
        upto = file.applied + len(file.writes)
        ended = self._synced
        if self._platter.fsyncs_to_fail:
            self._platter.fsyncs_to_fail -= 1
            ended = self._sync_failed
        heappush(loop.heap, (when_ns, loop.sequence(), ended, (file, upto, done), self._gate))
        return done

    def _sync_failed(self, file: _File, upto: int, done: Future) -> None:
        """The kernel says so once, drops the pages, and calls them clean from then on."""
        self._platter.hits += 1
        file.lost.update(range(file.synced, upto))
        file.synced = max(file.synced, upto)
        done.set_exception(DiskError("cannot fsync: Input/output error"))

    def _synced(self, file: _File, upto: int, done: Future) -> None:
        if upto > file.synced:  # noqa: PLR1730 # max() costs a call in the hot path
            file.synced = upto
        writes = file.writes
        # The last write covered stands for all of them: where one differs, so does a frame or an answer.
        covered = writes[upto - file.applied - 1][1] if upto > file.applied else b""
        self._trace_add((self._loop.now_ns, self._code, covered))
        if len(writes) > SETTLE_WRITES:
            file.settle()
        done.set_result()

    def fsync_dir(self) -> Future:
        platter = self._platter
        loop = self._loop
        done = Future(loop.ready, self._gate.failed)
        upto = platter.pending_applied + len(platter.pending)
        when_ns = loop.now_ns + platter.sync_ns(loop.now_ns)
        loop.post_ns(when_ns, self._names_synced, upto, done, gate=self._gate)
        return done

    def _names_synced(self, upto: int, done: Future) -> None:
        platter = self._platter
        covered = max(0, upto - platter.pending_applied)
        for change in platter.pending[:covered]:
            change(platter.durable_names)
        del platter.pending[:covered]
        platter.pending_applied += covered
        self._trace_add((self._loop.now_ns, self._code, b"names %d" % covered))
        done.set_result()
