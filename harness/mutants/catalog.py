"""The planted bugs, each of which mirrors one that really happened; together they measure the harness."""

from __future__ import annotations

from harness.mutants.apply import Mutant, Patch
from harness.mutants.deletes import DELETES
from harness.mutants.quorums import QUORUMS

_LIFE_DRAWN = """\
        self._life = self._runtime.draw("life", self._drawn) >> (64 - LIFE_BITS)
"""
_LIFE_OF_THE_NODE = """\
        self._life = int.from_bytes(self._runtime.node.encode(), "big") & ((1 << LIFE_BITS) - 1)
"""

_ALL: tuple[Mutant, ...] = (
    Mutant(
        name="hint-pop-first",
        sentence="A hint leaves the queue before it is sent: a send that fails loses it.",
        mirrors="the classic replay loop that pops, sends, and forgets what it popped when the send raises",
        patches=(
            Patch(
                "store/hints.py",
                """\
            self._runtime.net.send(target, self._rounds.write(gather.id, key, record))
            sent.append((id, gather))
""",
                """\
            self._drop(target, id)
            self._log.append(packed(HINT_DONE, id.to_bytes(8, "big"), target.encode()))
            self._runtime.net.send(target, self._rounds.write(gather.id, key, record))
            sent.append((id, gather))
""",
            ),
        ),
        combination="handoff-converges",
        seen_by=("convergence",),
    ),
    Mutant(
        name="hint-in-memory",
        sentence="Hints live in memory only, and count towards W all the same: a crash of their holder loses them.",
        mirrors="hint queues that a restart empties, as in early Cassandra",
        patches=(
            Patch(
                "store/hints.py",
                """\
        stamp = self._horizon.hint_stamp(id)
        await self._log.append(packed(HINT, id.to_bytes(8, "big"), target.encode(), key, record, stamp))
""",
                "",
            ),
        ),
        combination="handoff-only",
        seen_by=("convergence",),
    ),
    Mutant(
        name="ack-before-fsync",
        sentence="A write is acknowledged in the page cache; its fsync follows within a tenth of a second.",
        mirrors="periodic commit logs: Cassandra's default commitlog_sync",
        patches=(
            Patch(
                "store/log.py",
                """\
        disk.append(segment.name, content)
        await disk.fsync(segment.name)
        segment.size += len(content)
        self._closed = False
""",
                """\
        disk.append(segment.name, content)
        if not self._due:
            self._due = True
            self._runtime.spawn(self._sync(segment.name), name="log-sync")
        segment.size += len(content)
        self._closed = False
""",
            ),
            Patch(
                "store/log.py",
                "    async def _flush(self) -> None:\n",
                """\
    _due = False

    async def _sync(self, name: str) -> None:
        await self._runtime.sleep(100_000_000)
        self._due = False
        await self._disk.fsync(name)

    async def _flush(self) -> None:
""",
            ),
        ),
        combination="register-power",
        seen_by=("lost_writes",),
    ),
    Mutant(
        name="no-dots",
        sentence="One clock for the whole object: a write through a stale context replaces nothing of what it read.",
        mirrors="riak_kv#746: sibling explosion under interleaved writers, before dotted version vectors",
        patches=(
            Patch(
                "store/versions.py",
                "    kept = [v for v in record.versions if v.counter > covered.get(v.actor, 0)]\n",
                "    kept = [] if descends(covered, record.clock) else list(record.versions)\n",
            ),
        ),
        combination="quiet",
        seen_by=("siblings",),
    ),
    Mutant(
        name="lww-wall-clock",
        sentence="Concurrent writes are resolved by the newest wall time, although the bucket promises siblings.",
        mirrors="acknowledged writes lost to timestamps: Jepsen's reports on Cassandra and on Riak with LWW",
        patches=(
            Patch(
                "store/coordinator.py",
                '        lww=(bucket.mode or config.mode) == "lww",\n',
                "        lww=True,\n",
            ),
            Patch(
                "store/versions.py",
                "max(wall_ns, newest), body, end),))",
                "wall_ns, body, end),))",
            ),
        ),
        combination="set",
        seen_by=("lost_writes", "set_full"),
    ),
    Mutant(
        name="repair-winner-only",
        sentence="Read repair writes the newest sibling over the rest.",
        mirrors="repair that resolves by timestamp what it was only meant to copy",
        patches=(
            Patch(
                "store/read.py",
                "        waiting = not self.future.done()\n",
                "        waiting = not self.future.done()\n        record = _winner(record)\n",
            ),
            Patch(
                "store/read.py",
                "class Read:\n",
                """\
def _winner(encoded: bytes) -> bytes:
    record = versions.decode(encoded)
    newest = max(record.versions, key=lambda v: v.wall_ns, default=None)
    kept = (newest,) if newest else ()
    return versions.encode(versions.Record(record.clock, kept, record.truncated))


class Read:
""",
            ),
            Patch(
                "store/read.py",
                "from store.runtime import DiskError, Future\n",
                "from store import versions\nfrom store.runtime import DiskError, Future\n",
            ),
        ),
        combination="read-repair-only",
        seen_by=("lost_writes",),
    ),
    Mutant(
        name="cart-plain-union",
        sentence="Carts are merged by the plain union of their items: what was removed comes back.",
        mirrors="DeCandia et al. 2007, section 4.4: deleted items can resurface",
        patches=(
            Patch(
                "workloads/cart.py",
                "    added = sorted({tag for cart in carts for tag in cart.added})\n",
                "    added = sorted({tag for cart in carts for tag in cart.items()})\n",
            ),
            Patch(
                "workloads/cart.py",
                "    removed = sorted({tag for cart in carts for tag in cart.removed})\n",
                "    removed: list[int] = []\n",
            ),
        ),
        combination="cart",
        seen_by=("cart",),
    ),
    Mutant(
        name="zero-entries",
        sentence="Clocks begin with a zero entry for every node and are compared by equality: zero is not absent.",
        mirrors="textbook vector clocks for which {a: 1, b: 0} and {a: 1} each happened before the other",
        patches=(
            Patch(
                "store/coordinator.py",
                "        wall_ns = self.runtime.clock.wall_ns()\n        if lww:\n",
                """\
        wall_ns = self.runtime.clock.wall_ns()
        if not held.clock and not lww:
            held = Record(tuple((i + 1, 0, 0) for i in range(len(self.config.peers))))
        if lww:
""",
            ),
            Patch(
                "store/versions.py",
                "    kept = [v for v in record.versions if v.counter > covered.get(v.actor, 0)]\n",
                "    kept = [] if covered == counters(record.clock) else list(record.versions)\n",
            ),
            Patch(
                "store/versions.py",
                "    packed = _encoder.encode(clock)\n",
                "    packed = _encoder.encode(tuple(entry for entry in clock if entry[1]))\n",
            ),
        ),
        combination="quiet",
        seen_by=("siblings",),
    ),
    Mutant(
        name="merkle-keys-only",
        sentence="The hash tree hashes keys alone: replicas with the same keys look equal, whatever they hold under them.",
        mirrors="ferrosa#47: leaves that do not cover the values",
        patches=(
            Patch(
                "store/merkle.py",
                "    return xxh3_64_intdigest(record, key_token + version - HASH_VERSION & WHOLE)\n",
                '    return xxh3_64_intdigest(b"", key_token + version - HASH_VERSION & WHOLE)\n',
            ),
        ),
        combination="anti-entropy-only",
        seen_by=("convergence",),
    ),
    Mutant(
        name="merkle-xor-clocks",
        sentence="The hash tree XORs hashes of clocks without their keys: two missing keys with equal clocks cancel out.",
        mirrors="ferrosa#339: leaves that combine clock hashes by XOR",
        patches=(
            Patch(
                "store/merkle.py",
                "    return xxh3_64_intdigest(record, key_token + version - HASH_VERSION & WHOLE)\n",
                """\
    from store import versions

    clock = sorted((actor >> 32, counter) for actor, counter, _ in versions.decode(record).clock)
    return xxh3_64_intdigest(str(clock).encode())
""",
            ),
        ),
        combination="anti-entropy-only",
        seen_by=("convergence",),
    ),
    Mutant(
        name="merkle-mixed-hash",
        sentence="Nodes compare their hash trees although they hash differently: everything differs, for ever.",
        mirrors="riak_kv#1485: exchanges between nodes of two hash versions",
        patches=(
            Patch(
                "store/exchange.py",
                "        if message.version != self.version or len(message.roots)",
                "        if len(message.roots)",
            ),
            Patch(
                "store/exchange.py",
                "        if held is None or message.version != self.version or message.shift not in SHIFTS:\n",
                "        if held is None or message.shift not in SHIFTS:\n",
            ),
            Patch(
                "store/exchange.py",
                "            or message.version != self.version\n",
                "",
            ),
            Patch(
                "store/antientropy.py",
                "        if answer.version != self._exchange.version:\n",
                "        if answer.version < 0:\n",
            ),
        ),
        combination="mixed-hashes",
        seen_by=("convergence",),
    ),
    Mutant(
        name="rebuild-from-memory",
        sentence="The periodic rebuild goes through memory and never reads the disk: rot stays until it is on all copies.",
        mirrors="scrubbing that is served from a cache",
        patches=(
            Patch(
                "store/rebuild.py",
                "            damaged = await self._read_back(visit)\n",
                """\
            damaged = 0
            for held in ranges.values():
                for key in list(held.records):
                    visit(self._replica.payload(key))
""",
            ),
        ),
        combination="creeping-rot",
        seen_by=("lost_writes",),
    ),
    Mutant(
        name="exchange-overwrites",
        sentence="Anti-entropy puts what the peer sends in the place of what is held, instead of joining the two.",
        mirrors="repair that copies the other replica's record whole: what this one alone knew is lost",
        patches=(
            Patch(
                "store/exchange.py",
                "            future = self._replica.join(key, record)\n",
                "            future = self._replica.store(key, record)\n",
            ),
        ),
        combination="anti-entropy-only",
        seen_by=("lost_writes",),
    ),
    Mutant(
        name="exchange-gives-up",
        sentence="A node never compares again with a peer that once was down when its turn came.",
        mirrors="repair sessions that end for good when a replica is unreachable",
        patches=(
            Patch(
                "store/antientropy.py",
                "            if self._gossip.up(peer):\n",
                "            if not self._gossip.up(peer):\n                return\n            if peer:\n",
            ),
        ),
        combination="anti-entropy-only",
        seen_by=("convergence",),
    ),
    Mutant(
        name="serve-before-transfer",
        sentence="A new home replica serves at once, as if it had everything, and who gave the range away forgets it.",
        mirrors="riak_kv#223: an owner that answers 404 before its handoff has begun",
        patches=(
            Patch(
                "store/transfer.py",
                "            reached += await self._exchange(peer, token_range)\n",
                "            reached += 1\n",
            ),
        ),
        combination="transfer-only",
        seen_by=("lost_writes",),
    ),
    Mutant(
        name="change-forgotten-at-restart",
        sentence="A member that restarts in the middle of a change of the ring does not go on with its part of it.",
        mirrors="bootstraps that hang for ever in JOINING after a restart, in Cassandra until `nodetool bootstrap resume`",
        patches=(
            Patch(
                "store/membership.py",
                """\
        if self._ring.version:
            self._runtime.spawn(self._take_part(self._ring.version, None), name="membership")
""",
                "",
            ),
        ),
        combination="membership",
        seen_by=("convergence",),
    ),
    Mutant(
        name="first-change-stays",
        sentence="Of two changes of the ring that were begun at once, each node keeps the one that it heard of first.",
        mirrors="rings that differ at the same epoch: riak_core's divergent rings, Cassandra's schema and token disagreements",
        patches=(
            Patch(
                "store/ring.py",
                "    return state.epoch << 32 | zlib.crc32(encode(state)) if state.epoch else 0\n",
                '    return state.epoch << 32 | zlib.crc32(b"") if state.epoch else 0\n',
            ),
        ),
        combination="membership-split",
        seen_by=("convergence", "lost_writes"),
    ),
    Mutant(
        name="no-epoch",
        sentence="A node goes by one actor id for ever: on a wiped disk it makes its old dots again.",
        mirrors="riak_kv#679: a vnode that lost its data reuses its id, and acknowledged writes are discarded as old",
        patches=(
            Patch(
                "store/epochs.py",
                "        return (self._life << EPOCH_BITS) | (self._next - 1)\n",
                "        return self._life << EPOCH_BITS\n",
            ),
            Patch("store/epochs.py", _LIFE_DRAWN, _LIFE_OF_THE_NODE),
        ),
        combination="disk-lost",
        seen_by=("lost_writes", "siblings", "convergence"),
    ),
    Mutant(
        name="epoch-coordinator-only",
        sentence="A node takes a new epoch where a clock lacks its entry; one that a peer gave back to it is counted on from.",
        mirrors="riak_kv#1643: a new epoch on coordinating alone misses what came by replication",
        patches=(
            Patch(
                "store/epochs.py",
                "        return (self._life << EPOCH_BITS) | (self._next - 1)\n",
                """\
        return (self._life << EPOCH_BITS) | self._runtime.draw("epoch", self._next) >> (64 - EPOCH_BITS)
""",
            ),
            Patch("store/epochs.py", _LIFE_DRAWN, _LIFE_OF_THE_NODE),
        ),
        combination="disk-lost",
        seen_by=("lost_writes", "siblings", "convergence"),
    ),
    Mutant(
        name="timestamp-actor",
        sentence="A node goes by the second in which it started: two that start together make the same dots.",
        mirrors="riak_kv#1865: actor ids from timestamps collide",
        patches=(
            Patch(
                "store/epochs.py",
                _LIFE_DRAWN,
                "        self._life = self._runtime.clock.wall_ns() // 1_000_000_000\n",
            ),
        ),
        combination="register",
        seen_by=("lost_writes", "siblings", "convergence"),
    ),
    Mutant(
        name="replay-ignores-crc",
        sentence="Recovery believes a frame whose check does not fit.",
        mirrors="bitcask#212: corrupt entries are read back",
        patches=(
            Patch(
                "store/frames.py",
                """\
        if _crc(payload, (self._seed ^ offset * _SPREAD ^ length) & 0xFFFFFFFF) != check:
            return 0, None
""",
                "        assert check >= 0\n",
            ),
        ),
        combination="disk-rot",
        seen_by=("lost_writes", "convergence", "availability"),
    ),
    Mutant(
        name="merge-drops-tombstone",
        sentence="A merge drops what says that a key is forgotten, although an older file still holds the key.",
        mirrors="bitcask#82: deleted keys come back after a merge and a restart",
        patches=(
            Patch(
                "store/compaction.py",
                "any(s.may_hold(entry) for s in older) if isinstance(entry, int) else bool(older)\n",
                "any(s.may_hold(entry) for s in older) if isinstance(entry, int) else False\n",
            ),
        ),
        combination="merges",
        seen_by=("resurrection", "convergence", "lost_writes"),
    ),
    Mutant(
        name="open-without-fsync",
        sentence="Recovery believes what the page cache shows, without writing it anew.",
        mirrors="the fsync troubles of 2018: pages that a failed fsync dropped are read back as if they were safe",
        patches=(
            Patch(
                "store/log.py",
                """\
        if not tail or end < size or tail[-1].payload != mark(tail[-1].offset):
            await self._rewrite(segment, end)
""",
                """\
        if end < size:
            self._disk.truncate(segment.name, end)
            segment.size = end
""",
            ),
        ),
        combination="disk-errors",
        seen_by=("convergence", "lost_writes"),
    ),
)

MUTANTS: dict[str, Mutant] = {m.name: m for m in (*_ALL, *DELETES, *QUORUMS)}
