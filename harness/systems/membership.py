"""Makes the built-in store change its ring, in any world that has spare nodes: by the admin pages, as an operator would."""

from __future__ import annotations

from typing import Any

import msgspec

from harness.world import BY_THE_SYSTEM, Refused, Silence, Unsupported, World
from nemeses.fault import Evidence, Join, Kill, Leave, Replace, Restart, RingFault, SettleRing

ASK_NS = 1_000_000_000
LOOK_EVERY_NS = 250_000_000
SETTLE_NS_MAX = 60_000_000_000
PATIENCE_LOOKS = 4
UNHEARD = 503
"""The member has no answer of the newcomer's, or its disk is full: another may do better."""

Ring = dict[str, Any]


class RingNemesis:
    """Injects changes of the ring, and sees to it that the last one is finished."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def inject(self, fault: RingFault) -> Evidence:
        """Raises Unsupported."""
        match fault:
            case Join(node):
                return await self._change(
                    "join", {"name": node, "address": self._address(node)}, leave_out=node
                )
            case Leave(node):
                return await self._change("leave", {"name": node})
            case Replace(dead, node):
                body = {"dead": dead, "name": node, "address": self._address(node)}
                evidence = await self._change("replace", body, leave_out=dead)
                if evidence.verified:
                    # Dead from now on; had the change been refused, nobody would have taken its place.
                    await self._world.inject(Kill((dead,)))
                return evidence
            case SettleRing():
                return await self._settle()

    def _address(self, node: str) -> str:
        for spare in self._world.nodes:
            if spare == node:
                return ""  # every node's configuration has the addresses of all
        raise Unsupported(f"there is no node {node!r}: ask for more --spares")

    async def _change(self, kind: str, body: dict[str, str], leave_out: str = "") -> Evidence:
        """Asks one member after another until one says yes or no. `after` is what all know a moment later."""
        injected_ns = self._world.now_ns()
        before = await self._rings()
        for _ in range(PATIENCE_LOOKS):
            if before:
                break
            await self._world.sleep(LOOK_EVERY_NS)  # all of them are dead, for a moment
            before = await self._rings()
        members: list[str] = max(before.values(), key=lambda r: r["epoch"])["nodes"] if before else []
        # Not always the same one first: behind a partition two members may each begin a change.
        turn = injected_ns // 1_000 % max(len(members), 1)
        members = members[turn:] + members[:turn]
        refusal, accepted = "no member answered", False
        for node in members:
            if node == leave_out:
                continue
            answer = await self._ask(node, "POST", f"/admin/{kind}", msgspec.json.encode(body))
            if answer is not None:
                status, told = answer
                accepted = status == 202
                refusal = "" if accepted else told["error"]
                if status != UNHEARD:
                    break
        if accepted:
            await self._world.sleep(LOOK_EVERY_NS)
        after = await self._rings()
        newest = max((r["epoch"] for r in after.values()), default=0)
        rose = newest > max((r["epoch"] for r in before.values()), default=0)
        told = _shown(after) | ({"refused": refusal} if refusal else {})
        return self._evidence(accepted and rose, injected_ns, _shown(before), told)

    async def _settle(self) -> Evidence:
        """Starts whoever is dead, and waits until all nodes know one ring, and no change is in progress."""
        injected_ns = self._world.now_ns()
        before = await self._rings()
        await self._world.inject(Restart(self._world.nodes))
        settled, after = False, before
        while not settled and self._world.now_ns() - injected_ns < SETTLE_NS_MAX:
            after = await self._rings()
            settled = (
                len(after) == len(self._world.nodes)
                and len({r["version"] for r in after.values()}) == 1
                and all(r["phase"] == "settled" for r in after.values())
            )
            if not settled:
                await self._world.sleep(LOOK_EVERY_NS)
        return self._evidence(settled, injected_ns, _shown(before), _shown(after))

    def _evidence(
        self, verified: bool, injected_ns: int, before: dict[str, object], after: dict[str, object]
    ) -> Evidence:
        mechanism = BY_THE_SYSTEM.mechanism
        return Evidence(verified, mechanism, injected_ns, self._world.now_ns(), before, after)

    async def _rings(self) -> dict[str, Ring]:
        """The ring as each node that answers knows it."""
        tasks = {
            node: self._world.spawn(self._ask(node, "GET", "/admin/ring"), name=f"ring-{node}")
            for node in self._world.nodes
        }
        answers = {node: await task for node, task in tasks.items()}
        return {node: answer[1] for node, answer in answers.items() if answer is not None}

    async def _ask(self, node: str, method: str, path: str, body: bytes = b"") -> tuple[int, Any] | None:
        """(status, body) of one request; None if the node is silent."""
        transport = self._world.transport(node, client="operator")
        head = f"{method} {path} HTTP/1.1\r\nHost: {node}\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            response = await transport.request(head.encode() + body, ASK_NS)
        except (Refused, Silence):
            return None
        finally:
            transport.close()
        return int(response[9:12]), msgspec.json.decode(response.partition(b"\r\n\r\n")[2])


def _shown(rings: dict[str, Ring]) -> dict[str, object]:
    """Of each node's ring what a reader needs: epoch, phase, and of how many token ranges it is a home."""
    return {
        node: {
            "epoch": ring["epoch"],
            "phase": ring["phase"],
            "homes": sum(node in homes for homes in ring["ranges"].values()),
            **({"waiting": ring["waiting"]} if ring.get("waiting") else {}),
        }
        for node, ring in sorted(rings.items())
    }
