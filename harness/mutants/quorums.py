"""Planted bugs of quorums: who is counted, who is believed, when a copy counts, and how clocks are counted on."""

from __future__ import annotations

from harness.mutants.apply import Mutant, Patch

QUORUMS: tuple[Mutant, ...] = (
    Mutant(
        name="fallback-counts-primary",
        sentence="Fallbacks satisfy pr and pw as if they were home replicas.",
        mirrors="riak_kv#388: pr and pw were checked against who was believed to be up, not against who answered",
        patches=(
            Patch(
                "store/write.py",
                "            self._primaries += responder in self._homes\n",
                "            self._primaries += 1\n",
            ),
            Patch(
                "store/read.py",
                "        return sum(1 for node in nodes if node in homes)\n",
                "        return len([*nodes]) if homes else 0\n",
            ),
        ),
        combination="primaries",
        seen_by=("sessions",),
    ),
    Mutant(
        name="notfound-satisfies-r",
        sentence="A read answers 404 as soon as one of the R has nothing, although another holds a value.",
        mirrors="riak_cs#170: notfound_ok lets an empty replica speak for the key",
        patches=(
            Patch(
                "store/read.py",
                "        encoded = self._encoded = self._known = self._c.joined(self._key, answers.values())\n",
                """\
        encoded = self._encoded = self._known = self._c.joined(self._key, answers.values())
        if b"" in answers.values():
            self._finish(b"")
            return
""",
            ),
        ),
        combination="strict-sessions",
        seen_by=("sessions",),
    ),
    Mutant(
        name="forward-retry-no-id",
        sentence="A forwarded write that nobody answers is sent to the next home replica, as another operation.",
        mirrors="riak_kv#1188: a coordinator that was only slow makes the write a second time",
        patches=(
            Patch(
                "store/forwarding.py",
                """\
        self._doubted.add(target)
        return encode_error(
""",
                """\
        self._doubted.add(target)
        if not self._retrying:
            self._retrying = True
            try:
                return await self.forward(place, request, want)
            finally:
                self._retrying = False
        return encode_error(
""",
            ),
            Patch(
                "store/forwarding.py",
                "        self._handle = handle\n",
                "        self._handle = handle\n        self._retrying = False\n",
            ),
            Patch(
                "store/forwarding.py",
                "        gather = Gather(self._runtime, self._calls, 1, left_ns, expects=ForwardDone, asked=(target,))\n",
                "        left_ns //= 2\n"
                "        gather = Gather(self._runtime, self._calls, 1, left_ns, expects=ForwardDone, asked=(target,))\n",
            ),
        ),
        combination="register",
        seen_by=("siblings",),
    ),
    Mutant(
        name="client-actor",
        sentence="Clocks count the actor that the client's context names last, or one that all blind writers share.",
        mirrors="riak_kv#127: client ids as actors, reused by clients that begin to count again",
        patches=(
            Patch(
                "store/coordinator.py",
                "            self.epochs.actor(held.clock, versions.counters(context))\n",
                "            (context[-1][0] if context else 1)\n",
            ),
        ),
        combination="register",
        seen_by=("lost_writes",),
    ),
    Mutant(
        name="never-unsuspect",
        sentence="A node once suspected is never tried again.",
        mirrors="failure detectors without a way back; DeCandia et al. 2007, section 4.8.3",
        patches=(
            Patch(
                "store/gossip.py",
                "            self._missed.discard(src)\n            return True\n",
                "            return True\n",
            ),
        ),
        combination="handoff-converges",
        seen_by=("convergence", "availability"),
    ),
    Mutant(
        name="truncate-own-entry",
        sentence="Truncation drops the oldest entries of a clock, also those that carry a live value's dot.",
        mirrors="truncation by age alone, as in the paper, section 4.4, under dotted versions",
        patches=(
            Patch(
                "store/versions.py",
                "    live = {v.actor for v in versions}\n    old",
                "    live = {v.actor for v in versions if not v.body}\n    old",
            ),
        ),
        combination="actors",
        seen_by=("lost_writes", "convergence"),
    ),
    Mutant(
        name="hint-window",
        sentence="Hints are dropped when they are older than two seconds, and nothing else repairs what they stood for.",
        mirrors="Cassandra: max_hint_window, after which only a manual repair helps",
        patches=(
            Patch(
                "store/hints.py",
                "        window = list(islice(self._pending[target].items(), WINDOW))\n",
                """\
        now = self._runtime.clock.mono_ns()
        for id in [id for id in self._pending[target] if now - self._kept_ns.get(id, now) > 2_000_000_000]:
            self._drop(target, id)
            self._log.append(packed(HINT_DONE, id.to_bytes(8, "big"), target.encode()))
        window = list(islice(self._pending.get(target, {}).items(), WINDOW))
""",
            ),
            Patch(
                "store/hints.py",
                "        self._metrics.hints_stored += 1\n",
                "        self._metrics.hints_stored += 1\n"
                "        self._kept_ns[id] = self._runtime.clock.mono_ns()\n",
            ),
            Patch(
                "store/hints.py",
                "        self._draining: set[str] = set()\n",
                "        self._draining: set[str] = set()\n        self._kept_ns: dict[int, int] = {}\n",
            ),
        ),
        combination="handoff-converges",
        seen_by=("convergence",),
    ),
    Mutant(
        name="w-one-short",
        sentence="W is counted one short.",
        mirrors="an off-by-one in the quorum: the coordinator counts itself before it has written",
        patches=(
            Patch(
                "store/write.py",
                "            if responders >= want.responders and",
                "            if responders >= max(1, want.responders - 1) and",
            ),
        ),
        combination="strict",
        seen_by=("sessions", "durability"),
    ),
    Mutant(
        name="r-one-short",
        sentence="R is counted one short.",
        mirrors="the same on the way back: the coordinator counts the replica that it has not heard",
        patches=(
            Patch(
                "store/read.py",
                "        if len(self._answers) >= want.responders and (\n",
                "        if len(self._answers) >= max(1, want.responders - 1) and (\n",
            ),
            Patch(
                "store/read.py",
                "            and len(self._holders) >= want.responders\n",
                "            and len(self._holders) >= max(1, want.responders - 1)\n",
            ),
        ),
        combination="strict",
        seen_by=("sessions",),
    ),
    Mutant(
        name="timeout-is-success",
        sentence="A write whose time is over is acknowledged, however few have it.",
        mirrors="clients told ok by a coordinator that gave up waiting, and hoped",
        patches=(
            Patch(
                "store/write.py",
                "            self.future.set_result(self._want.short(*counts))\n",
                "            self.future.set_result(None if counts else None)\n",
            ),
        ),
        combination="strict",
        seen_by=("sessions", "durability"),
    ),
    Mutant(
        name="repair-not-awaited",
        sentence="A read answers before the repair that it promises has reached anybody.",
        mirrors="CASSANDRA-14635: monotonic quorum reads need read repair that blocks",
        patches=(
            Patch(
                "store/read.py",
                '        if repair == "async":\n',
                '        if repair != "off":\n',
            ),
        ),
        combination="one-key",
        seen_by=("sessions",),
    ),
    Mutant(
        name="own-copy-unsynced",
        sentence="A coordinator counts its own copy towards W before it is synced.",
        mirrors="a leader that counts itself at once, since its own disk is so near",
        patches=(
            Patch(
                "store/write.py",
                "            self._kept(own, node)\n",
                "            coordinator.runtime.call_later(0, self._ack, node, node)\n",
            ),
        ),
        combination="every-copy",
        seen_by=("durability", "sessions", "lost_writes"),
    ),
    Mutant(
        name="replica-acks-unsynced",
        sentence="A replica acknowledges a write before it is synced.",
        mirrors="acknowledgement from the page cache of a follower",
        patches=(
            Patch(
                "store/node.py",
                "        self._answer(durable, src, WriteDone(message.id))\n",
                "        self._answer(None, src, WriteDone(message.id))\n",
            ),
        ),
        combination="every-copy",
        seen_by=("durability", "sessions", "lost_writes"),
    ),
    Mutant(
        name="hint-acks-unsynced",
        sentence="A fallback acknowledges a hint before it is durable.",
        mirrors="hints in memory first, on disk later",
        patches=(
            Patch(
                "store/node.py",
                "            durable = self.hints.store(message.hint_for, message.key, message.record)\n",
                "            self.hints.store(message.hint_for, message.key, message.record)\n"
                "            durable = None\n",
            ),
        ),
        combination="hinted-copies",
        seen_by=("durability",),
    ),
)
