"""Cuts links between nodes with one iptables chain of our own in each receiver, and reads how often it bit.

`SUNDER` is jumped to from INPUT once and then only ever replaced as a whole, by one `iptables-restore --noflush` a node:
a table changes at once or not at all, and nobody else's chains are touched. IPv4 is matched by the peer's address, IPv6
by its hardware address, which covers link-local addresses too. Clients come from no peer's address and are spared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from nemeses.fault import Link

CHAIN = "SUNDER"
MECHANISM = "iptables chain SUNDER in each receiver's INPUT"


class Peer(NamedTuple):
    """How a node's packets are known: its IPv4 address, and the hardware address of its one interface."""

    address: str
    mac: str


class Tables(NamedTuple):
    """Which flavour of each command works in a container: `iptables-legacy`, `iptables`, or empty for none."""

    four: str
    six: str


SETUP = f"""\
setup() {{
  for table in "$@"; do
    "$table" -w -N {CHAIN} && "$table" -w -I INPUT 1 -j {CHAIN} && echo "$table" && return
  done 2>/dev/null
  echo none
}}
setup iptables-legacy iptables
if [ "$(cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6 2>/dev/null)" = 0 ]
then setup ip6tables-legacy ip6tables
else echo none
fi"""
"""Makes the chains in a fresh container; prints two words, for `tables`. No IPv6 on the interface: nothing to cut.

Legacy first where the kernel still has it: replacing the chain took 1.3 ms, against 17 ms for nf_tables, which waits for
a grace period whenever rules go. In a network namespace of its own there is nobody to disagree with about the flavour.
"""


def tables(printed: str) -> Tables:
    """What SETUP found."""
    four, six = ("" if word == "none" else word for word in printed.split())
    return Tables(four, six)


def blocked_sources(blocked: Iterable[Link], node: str) -> list[str]:
    """The nodes that `node` must not hear."""
    return sorted({source for source, destination in blocked if destination == node})


def rules(sources: Iterable[Peer], mode: Literal["drop", "reject"]) -> tuple[str, str]:
    """What `iptables-restore` and `ip6tables-restore` read: the whole chain, replaced in one step.

    >>> print(rules([Peer("10.1.0.3", "02:42:0a:01:00:03")], "drop")[0])
    *filter
    :SUNDER - [0:0]
    -A SUNDER -s 10.1.0.3/32 -j DROP
    COMMIT
    """
    verdicts = ["-j DROP"] if mode == "drop" else ["-p tcp -j REJECT --reject-with tcp-reset", "-j REJECT"]
    peers = list(sources)
    four = [f"-A {CHAIN} -s {peer.address}/32 {verdict}" for peer in peers for verdict in verdicts]
    six = [f"-A {CHAIN} -m mac --mac-source {peer.mac} {verdict}" for peer in peers for verdict in verdicts]
    return _table(four), _table(six)


def script(chosen: Tables, sources: Iterable[Peer], mode: Literal["drop", "reject"], *, count: bool) -> str:
    """The shell command that replaces a node's chains; with `count` it first prints how often the old rules hit."""
    lines: list[str] = []
    for command, table in zip(chosen, rules(sources, mode), strict=True):
        if command:
            if count:
                lines.append(f"{command} -w -nvxL {CHAIN} || failed=1")
            lines.append(f"{command}-restore --noflush -w <<\\{CHAIN} || failed=1\n{table}\n{CHAIN}")
    return "\n".join(["failed=", *lines, '[ -z "$failed" ]'])


def packets(listing: str) -> int:
    """How many packets the rules caught, from what COUNT printed.

    >>> packets('''Chain SUNDER (1 references)
    ...     pkts      bytes target     prot opt in     out     source               destination
    ...        7      588 DROP       0    --  *      *       10.1.0.3             0.0.0.0/0''')
    7
    """
    return sum(int(count) for count in re.findall(r"(?m)^\s*(\d+)\s+\d+\s+(?:DROP|REJECT)\b", listing))


def summary(links: Mapping[Link, bool]) -> dict[str, object]:
    """What a probe saw, small enough for a history: how many links carried, and which did not."""
    lost = sorted(
        f"{source}>{destination}" for (source, destination), carried in links.items() if not carried
    )
    return {"carried": len(links) - len(lost), "lost": lost}


def _table(lines: list[str]) -> str:
    return "\n".join(["*filter", f":{CHAIN} - [0:0]", *lines, "COMMIT"])
