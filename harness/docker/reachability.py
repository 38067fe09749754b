"""Asks every node which others it can hear: one datagram a link, so that one-way cuts show as one-way."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from harness.docker.supervisor import PROBE_PORT
from nemeses.fault import Link

ATTEMPTS = 3
"""A link that should carry and did not is asked again: a first datagram may be lost while addresses are resolved."""

ANSWER_S = 0.2
REPEATS = 10


class Reachability:
    """Speaks with the supervisors of `addresses` (node -> IPv4 address). Counts what it sent."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = dict(addresses)
        self._names = {address: node for node, address in addresses.items()}

    async def probe(self, expected_lost: Iterable[Link] = ()) -> tuple[dict[Link, bool], dict[Link, int]]:
        """For each link whether a datagram came through, and how many were sent over it.

        Links that are not in `expected_lost` get up to ATTEMPTS datagrams, the others one.
        """
        loop = asyncio.get_running_loop()
        transport, asker = await loop.create_datagram_endpoint(_Asker, local_addr=("0.0.0.0", 0))
        try:
            return await self._probe(asker, frozenset(expected_lost))
        finally:
            transport.close()

    async def _probe(
        self, asker: _Asker, expected_lost: frozenset[Link]
    ) -> tuple[dict[Link, bool], dict[Link, int]]:
        nodes = sorted(self._addresses)
        links = [(source, destination) for source in nodes for destination in nodes if source != destination]
        heard = dict.fromkeys(links, False)
        sent = dict.fromkeys(links, 0)
        for attempt in range(ATTEMPTS):
            asked = [
                link for link in links if not heard[link] and (attempt == 0 or link not in expected_lost)
            ]
            if not asked:
                break
            token = secrets.token_hex(8)
            sending: dict[str, list[str]] = {}
            for source, destination in asked:
                sending.setdefault(source, []).append(destination)
            answers = await asyncio.gather(
                *(
                    asker.ask(
                        (self._addresses[source], PROBE_PORT),
                        f"send {token} {' '.join(self._addresses[destination] for destination in destinations)}",
                        f"sent {token}",
                    )
                    for source, destinations in sending.items()
                )
            )
            for link in asked:
                sent[link] += answers[list(sending).index(link[0])].repeats
            lists = await asyncio.gather(
                *(
                    asker.ask((self._addresses[node], PROBE_PORT), f"list {token}", f"listed {token}")
                    for node in nodes
                )
            )
            for node, listed in zip(nodes, lists, strict=True):
                for address in listed.words:
                    if address in self._names:
                        heard[(self._names[address], node)] = True
        return heard, sent


class _Answer:
    def __init__(self, words: list[str], repeats: int) -> None:
        self.words = words
        self.repeats = repeats


class _Asker(asyncio.DatagramProtocol):
    """Repeats a question until it is answered; every question may safely be asked twice."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._waiting: dict[tuple[str, str], asyncio.Future[list[str]]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        kind, token, *words = data.decode(errors="replace").split()
        waiting = self._waiting.get((addr[0], f"{kind} {token}"))
        if waiting is not None and not waiting.done():
            waiting.set_result(words)

    def error_received(self, exc: Exception) -> None:
        """A node that is not there: its question times out."""

    async def ask(self, address: tuple[str, int], question: str, answer: str) -> _Answer:
        """The answer's words and how often the question went out; no words at all from a node that does not answer."""
        waiting: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._waiting[(address[0], answer)] = waiting
        try:
            for repeat in range(1, REPEATS + 1):
                self._transport.sendto(question.encode(), address)
                done, _ = await asyncio.wait([waiting], timeout=ANSWER_S)
                if done:
                    return _Answer(waiting.result(), repeat)
        finally:
            del self._waiting[(address[0], answer)]
        return _Answer([], REPEATS)
