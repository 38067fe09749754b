"""The simulated network between nodes: one directed link for each pair, doing to frames only what TCP can do.

One exception is chosen (docs/decisions/005): a link cut in one direction goes on carrying the other, without acknowledgements.

Frames arrive at most once and in order. They are lost only where a connection breaks: an end dies, a partition rejects, or
one that drops lasts so long that the connection is given up. A drawn delay belongs to (source, destination, number of the
message on that link), so that one message more or less leaves the fate of the others alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappush
from typing import Literal

from harness.sim.draws import Draws, Latencies, table_of
from harness.sim.loop import Gate, Handle, SimLoop
from harness.sim.trace import Trace

LINK_NS = table_of(((0, 300_000), (900, 900_000), (990, 1_500_000), (1000, 15_000_000)))
"""A local network: under a millisecond, but for one frame in a hundred."""

SELF_NS = table_of(((0, 15_000), (1000, 25_000)))
"""A node that speaks to itself."""

GIVE_UP_NS = 2_000_000_000
"""A connection whose oldest unacknowledged frame is that old is reset."""

RETRANSMIT_NS_MIN = 1_000_000
RETRANSMIT_NS_MAX = 200_000_000
"""How soon after a heal the next retransmission comes, unless backing off has made it rarer."""

Handler = Callable[[str, bytes], None]


class Link:
    """What one node sends to one other, through all of their lives."""

    __slots__ = (
        "blocked",
        "clear",
        "code",
        "dst",
        "gate",
        "give_up",
        "handler",
        "last_ns",
        "latencies",
        "src",
        "stalled",
        "stalled_since_ns",
        "stalls",
    )

    def __init__(self, src: str, dst: str, latencies: Latencies, code: int) -> None:
        self.src = src
        self.dst = dst
        self.latencies = latencies
        self.code = code
        self.clear = False
        """The destination listens and nothing is in the way: the one question that the hot path asks."""
        self.handler: Handler | None = None
        self.gate: Gate | None = None
        """The listening life's."""
        self.last_ns = 0
        """When the last frame arrives: none may overtake it."""
        self.blocked: Literal["", "drop", "reject"] = ""
        self.stalled: list[bytes] = []
        self.stalled_since_ns = 0
        self.stalls = 0
        self.give_up: Handle | None = None


class Network:
    """All links. The world tells it who lives and what is cut."""

    def __init__(self, loop: SimLoop, nodes: tuple[str, ...], draws: Draws, trace: Trace) -> None:
        self._loop = loop
        self._draws = draws
        self._trace = trace
        self.hit = 0
        """Frames that met a partition since the last time this was set to 0."""
        self.links: dict[str, dict[str, Link]] = {
            src: {
                dst: Link(
                    src,
                    dst,
                    Latencies(draws.seed, SELF_NS if src == dst else LINK_NS, "link", src, dst),
                    trace.code(f"frame {src}>{dst}"),
                )
                for dst in nodes
            }
            for src in nodes
        }

    def listens(self, node: str, handler: Handler, gate: Gate) -> None:
        """From now on this life of the node takes frames."""
        for outgoing in self.links.values():
            link = outgoing[node]
            link.handler = handler
            link.gate = gate
            link.clear = not link.blocked

    def died(self, node: str) -> int:
        """Breaks every connection of the node; the number of frames that this lost.

        Of what the node had sent, each link delivers a drawn part, the earlier frames. What was on its way to it is lost
        when it arrives at a shut gate.
        """
        lost = 0
        for src, outgoing in self.links.items():
            if src != node:
                link = outgoing[node]
                lost += self._forget_stalled(link)
                link.handler = link.gate = None
                link.clear = False
        for link in self.links[node].values():
            lost += self._forget_stalled(link) + self._cut(link)
        own = self.links[node][node]
        own.handler = own.gate = None
        own.clear = False
        return lost

    def carries(self, src: str, dst: str) -> bool:
        """The verdict on the link as it stands: would the network carry a frame?"""
        return not self.links[src][dst].blocked

    def partition(self, blocked: Iterable[tuple[str, str]], mode: Literal["drop", "reject"]) -> None:
        """Cuts exactly these links."""
        cut = set(blocked)
        for src, outgoing in self.links.items():
            for dst, link in outgoing.items():
                if (src, dst) in cut and src != dst:
                    if mode == "reject" and link.blocked != "reject":
                        self.hit += self._forget_stalled(link) + self._cut(link)
                    link.blocked = mode
                    link.clear = False
                elif link.blocked:
                    link.blocked = ""
                    link.clear = link.handler is not None
                    self._deliver_stalled(link)

    def hampered(self, link: Link, frame: bytes) -> None:
        """A frame for a link that is not clear."""
        if link.blocked:
            self.hit += 1
            if link.blocked == "drop" and link.handler is not None:
                if not link.stalled:
                    now_ns = self._loop.now_ns
                    link.stalled_since_ns = now_ns
                    link.stalls += 1
                    link.give_up = self._loop.call_at_ns(now_ns + GIVE_UP_NS, self._forget_stalled, link)
                link.stalled.append(frame)

    def _forget_stalled(self, link: Link) -> int:
        """The connection is given up."""
        if link.give_up is not None:
            link.give_up.cancel()
            link.give_up = None
        lost = len(link.stalled)
        link.stalled.clear()
        return lost

    def _deliver_stalled(self, link: Link) -> None:
        """The next retransmission gets through, and everything behind it."""
        if not link.stalled:
            return
        frames = link.stalled[:]
        self._forget_stalled(link)
        loop = self._loop
        # The longer it stalled, the further retransmissions have backed off.
        longest_ns = max(RETRANSMIT_NS_MAX, loop.now_ns - link.stalled_since_ns)
        delay_ns = self._draws.between(
            RETRANSMIT_NS_MIN, longest_ns, "retransmit", link.src, link.dst, link.stalls
        )
        when_ns = max(loop.now_ns + delay_ns, link.last_ns)
        link.last_ns = when_ns
        for frame in frames:
            self._trace.add((when_ns, link.code, frame))
            heappush(loop.heap, (when_ns, loop.sequence(), link.handler, (link.src, frame), link.gate))

    def _cut(self, link: Link) -> int:
        """Loses the later ones of the frames in flight on this link, from a drawn point; says how many."""
        if link.handler is None:
            return 0
        heap = self._loop.heap
        flying = sorted(
            entry
            for entry in heap
            if entry[4] is link.gate
            and entry[3] is not None
            and entry[2] == link.handler
            and entry[3][0] == link.src
        )
        if not flying:
            return 0
        keep = self._draws.below(len(flying) + 1, "cut", link.src, link.dst, self._loop.now_ns)
        lost = {entry[1] for entry in flying[keep:]}
        if lost:
            heap[:] = [entry for entry in heap if entry[1] not in lost]
            heapify(heap)
            # A trace notes a frame when it is sent: so it has to note the loss.
            self._trace.add((self._loop.now_ns, link.code, b"cut %d" % len(lost)))
        return len(lost)


class SimNet:
    """One life's way into the network (store.runtime.Network)."""

    __slots__ = ("_add", "_gate", "_heap", "_links", "_loop", "_network", "_node", "_sequence")

    def __init__(self, loop: SimLoop, network: Network, node: str, gate: Gate, trace: Trace) -> None:
        self._loop = loop
        self._network = network
        self._node = node
        self._gate = gate
        self._links = network.links[node]
        self._heap = loop.heap
        self._sequence = loop.sequence
        self._add = trace.add

    def send(self, dst: str, frame: bytes) -> None:
        link = self._links.get(dst)
        if link is None or self._gate.shut:
            return
        if link.clear:
            left = link.latencies.left
            if not left:
                link.latencies.refill()
            when_ns = self._loop.now_ns + left.pop()
            if when_ns < link.last_ns:  # noqa: PLR1730 # max() costs a call in the hot path
                when_ns = link.last_ns
            link.last_ns = when_ns
            # Traced as sent, with the time at which it will arrive; the loop then calls the receiver without a detour.
            self._add((when_ns, link.code, frame))
            heappush(self._heap, (when_ns, self._sequence(), link.handler, (self._node, frame), link.gate))
        else:
            self._network.hampered(link, frame)

    def meet(self, node: str, address: str) -> None:
        """Every node of the world has its links from the start."""

    def forget(self, node: str) -> None:
        """And keeps them."""

    def on_message(self, handler: Handler) -> None:
        if not self._gate.shut:
            self._network.listens(self._node, handler, self._gate)
