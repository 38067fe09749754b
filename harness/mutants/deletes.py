"""Planted bugs of deleting: tombstones that are forgotten too early, or not written where they are owed."""

from __future__ import annotations

from harness.mutants.apply import Mutant, Patch

DELETES: tuple[Mutant, ...] = (
    Mutant(
        name="reap-early",
        sentence="A tombstone is reaped once those who answer have agreed: who is away comes back with the value.",
        mirrors="riak_kv#1869: tombstones reaped while a replica was down; Cassandra's gc_grace_seconds without a repair",
        patches=(
            Patch(
                "store/reaper.py",
                "if everybody is None or not all(map(c.gossip.up, everybody)):",
                "if everybody is None:",
            ),
            Patch(
                "store/reaper.py",
                "if len(answers) < len(others) or not agreed",
                "if not agreed",
            ),
        ),
        combination="deletes",
        seen_by=("resurrection",),
    ),
    Mutant(
        name="reap-ignores-hints",
        sentence="A tombstone is reaped although somebody still keeps a hint with the value.",
        mirrors="Cassandra: a hint replayed after gc_grace_seconds brings a deleted row back",
        patches=(
            Patch(
                "store/reaper.py",
                "return self._rounds.outstanding(key) or self._c.hints.holds(key)",
                "return self._rounds.outstanding(key)",
            ),
        ),
        combination="deletes",
        seen_by=("resurrection",),
    ),
    Mutant(
        name="reap-without-stamps",
        sentence="Nobody refuses what was sent before a reap: a frame that was on its way brings the value back.",
        mirrors="a repair in flight that outlives the tombstone it was computed without",
        patches=(
            Patch(
                "store/rounds.py",
                "        if message.round >= floor:\n            return False\n",
                "        if message.round <= floor or message.round > floor:\n            return False\n",
            ),
            Patch(
                "store/rounds.py",
                "        if round >= floor:\n            return 0\n",
                "        if round <= floor or round > floor:\n            return 0\n",
            ),
        ),
        combination="deletes",
        seen_by=("resurrection",),
    ),
    Mutant(
        name="ttl-drops",
        sentence="An expired value is dropped, not replaced by a tombstone: what it had replaced comes back.",
        mirrors="caches' expiry in a store with replicas: an older copy elsewhere knows nothing of the newer one",
        patches=(
            Patch(
                "store/expiry.py",
                "    if place.terms.lww:\n        record = versions.expire_lww(held)\n",
                "    if versions.expire(held, 1, wall_ns).versions[0].end is True:\n"
                "        coordinator.replica.drop(key)\n"
                "        return True\n"
                "    if place.terms.lww:\n        record = versions.expire_lww(held)\n",
            ),
        ),
        combination="deletes",
        seen_by=("resurrection", "convergence"),
    ),
    Mutant(
        name="delete-no-max",
        sentence="In lww a delete does not take a timestamp after the value's: behind a wrong clock the value wins.",
        mirrors="Garage c82d91c6: a delete with an older timestamp than what it deletes",
        patches=(
            Patch(
                "store/versions.py",
                "Version(actor, counter, max(wall_ns, newest), body, end)",
                "Version(actor, counter, wall_ns if deleted else max(wall_ns, newest), body, end)",
            ),
        ),
        combination="deletes-lww",
        seen_by=("resurrection",),
    ),
)
