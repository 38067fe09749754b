"""Kills, starts, stops and continues the nodes' store processes, and looks afterwards whether it came true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from harness.docker.node import POLL_S, Node, State, everywhere
from nemeses.fault import Evidence

RESTART_S = 20.0
STATE_S = 5.0
"""How long a process may take to die or to stop after its signal."""


async def kill(nodes: list[Node], now_ns: Callable[[], int]) -> Evidence:
    """SIGKILL. Verified when something lived, and now every process is gone and every port refuses."""
    before = await states(nodes)
    await everywhere(node.signal("KILL") for node in nodes if before[node.name] != "gone")
    injected_ns = now_ns()
    after = await _await_states(nodes, lambda state: state == "gone")
    refused = await everywhere(node.refuses() for node in nodes)
    gone = all(state == "gone" for state in after.values()) and all(refused)
    return Evidence(
        verified=gone and any(state != "gone" for state in before.values()),
        mechanism="SIGKILL to the store's process",
        injected_ns=injected_ns,
        verified_ns=now_ns(),
        before=dict(before),
        after={
            node.name: f"{after[node.name]}, port {'refuses' if closed else 'still open'}"
            for node, closed in zip(nodes, refused, strict=True)
        },
    )


async def restart(nodes: list[Node], now_ns: Callable[[], int]) -> Evidence:
    """Starts those that are gone. Verified when each of them answers `GET /ping`."""
    before = await states(nodes)
    dead = [node for node in nodes if before[node.name] == "gone"]
    await everywhere(node.launch() for node in dead)
    injected_ns = now_ns()
    answered = await everywhere(node.answers(RESTART_S) for node in dead)
    after: dict[str, object] = dict(before)
    after |= {
        node.name: "answers" if came else f"does not answer; {node.last_words()}"
        for node, came in zip(dead, answered, strict=True)
    }
    return Evidence(
        verified=all(answered),
        mechanism="the store's process started anew on the same directory",
        injected_ns=injected_ns,
        verified_ns=now_ns(),
        before=dict(before),
        after=after,
    )


async def pause(nodes: list[Node], now_ns: Callable[[], int]) -> Evidence:
    """SIGSTOP. Verified when something lived, and /proc says of each of those that it is stopped."""
    before, after, injected_ns = await _signalled(nodes, "STOP", now_ns, lambda state: state != "runs")
    return Evidence(
        verified="stopped" in after.values() and "runs" not in after.values(),
        mechanism="SIGSTOP to the store's process",
        injected_ns=injected_ns,
        verified_ns=now_ns(),
        before=dict(before),
        after=dict(after),
    )


async def resume(nodes: list[Node], now_ns: Callable[[], int]) -> Evidence:
    """SIGCONT. Verified when /proc says of none that it is stopped; what is gone need not go on."""
    before, after, injected_ns = await _signalled(nodes, "CONT", now_ns, lambda state: state != "stopped")
    return Evidence(
        verified="stopped" not in after.values(),
        mechanism="SIGCONT to the store's process",
        injected_ns=injected_ns,
        verified_ns=now_ns(),
        before=dict(before),
        after=dict(after),
    )


async def states(nodes: list[Node]) -> dict[str, State]:
    found = await everywhere(node.state() for node in nodes)
    return {node.name: state for node, state in zip(nodes, found, strict=True)}


async def _signalled(
    nodes: list[Node], name: str, now_ns: Callable[[], int], wanted: Callable[[State], bool]
) -> tuple[dict[str, State], dict[str, State], int]:
    """The states before and after a signal to those that live, and when it was sent."""
    before = await states(nodes)
    await everywhere(node.signal(name) for node in nodes if before[node.name] != "gone")
    injected_ns = now_ns()
    return before, await _await_states(nodes, wanted), injected_ns


async def _await_states(nodes: list[Node], wanted: Callable[[State], bool]) -> dict[str, State]:
    """The states once all are as wanted, or as they are when time is up."""
    deadline = time.monotonic() + STATE_S
    while True:
        found = await states(nodes)
        if all(wanted(state) for state in found.values()) or time.monotonic() > deadline:
            return found
        await asyncio.sleep(POLL_S / 5)
