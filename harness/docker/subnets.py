"""Finds a private subnet for the nodes that nothing on this machine uses yet."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterator
from pathlib import Path

AREAS = ("10.213.0.0/16", "172.31.0.0/16", "192.168.0.0/16")
"""Where to look: one that a private network may overlap (10.0.0.0/8 often is routed as a whole), then others."""


def free() -> Iterator[ipaddress.IPv4Network]:
    """Private /24s that no route of this machine overlaps, from a random place on so that parallel runs spread."""
    taken = list(routes(Path("/proc/net/route").read_text()))
    for area in AREAS:
        subnets = list(ipaddress.IPv4Network(area).subnets(new_prefix=24))
        first = secrets.randbelow(len(subnets))
        for subnet in subnets[first:] + subnets[:first]:
            if not any(subnet.overlaps(route) for route in taken):
                yield subnet


def routes(table: str) -> Iterator[ipaddress.IPv4Network]:
    """The networks that /proc/net/route names, but for the default."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        # Addresses are in host byte order there: the bytes of the hexadecimal number are reversed on little-endian.
        address, mask = (int.from_bytes(bytes.fromhex(fields[index]), "little") for index in (1, 7))
        if mask:
            yield ipaddress.IPv4Network((address, bin(mask).count("1")))
