"""The first process of a node's container: outlives the store, buries orphans, and answers reachability probes.

Runs inside the image with nothing but the standard library. Datagrams on the probe port:

    send TOKEN ADDRESS...   sends `seen TOKEN` to each address, then answers `sent TOKEN`
    seen TOKEN              remembered with its source address, not answered
    list TOKEN              answers `listed TOKEN ADDRESS...`: the sources seen so far

One socket's queue is first in, first out. So whoever asks `list` after `sent` came back from every sender gets a
final answer: what had not been received by then was lost, however busy the machine is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys

PROBE_PORT = 8009
TOKENS_MAX = 64
"""Probes remembered at a time; the oldest are forgotten."""


def bury(*_signal: object) -> None:
    """Waits for every child that has ended: as process 1 we inherit those whose parents died."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def leave(*_signal: object) -> None:
    """Process 1 ends on a signal only if it says so."""
    sys.exit(0)


def answer(request: str, source: str, seen: dict[str, list[str]]) -> tuple[str, list[str]]:
    """The reply to one datagram (empty: none), and the addresses that must first get `seen TOKEN`."""
    match request.split():
        case ["send", token, *addresses]:
            return f"sent {token}", addresses
        case ["seen", token]:
            sources = seen.setdefault(token, [])
            if source not in sources:
                sources.append(source)
            while len(seen) > TOKENS_MAX:
                del seen[next(iter(seen))]
            return "", []
        case ["list", token]:
            return " ".join(["listed", token, *seen.get(token, [])]), []
        case _:
            return "", []


def serve() -> None:
    signal.signal(signal.SIGCHLD, bury)
    signal.signal(signal.SIGTERM, leave)
    probes = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    probes.bind(("", PROBE_PORT))
    seen: dict[str, list[str]] = {}
    while True:
        datagram, source = probes.recvfrom(4096)
        reply, addresses = answer(datagram.decode(errors="replace"), source[0], seen)
        token = reply.partition(" ")[2]
        for address in addresses:
            # A network that refuses to take the datagram loses it too.
            with contextlib.suppress(OSError):
                probes.sendto(f"seen {token}".encode(), (address, PROBE_PORT))
        if reply:
            with contextlib.suppress(OSError):
                probes.sendto(reply.encode(), source)


if __name__ == "__main__":
    serve()
