"""The rules that cut links, read as text: exactly the blocked sources, in our own chain, replaced as a whole."""

from __future__ import annotations

import pytest

from harness.docker import links
from harness.docker.links import Peer, Tables
from harness.docker.supervisor import TOKENS_MAX, answer

A = Peer("10.213.0.2", "02:42:0a:d5:00:02")
B = Peer("10.213.0.3", "02:42:0a:d5:00:03")


def test_a_receiver_blocks_the_sources_of_its_links_only() -> None:
    blocked = [("n1", "n2"), ("n3", "n2"), ("n2", "n1")]
    assert links.blocked_sources(blocked, "n2") == ["n1", "n3"]
    assert links.blocked_sources(blocked, "n1") == ["n2"]
    assert links.blocked_sources(blocked, "n3") == []


def test_dropping_is_one_rule_a_source_in_both_families() -> None:
    four, six = links.rules([A, B], "drop")
    assert four.splitlines() == [
        "*filter",
        ":SUNDER - [0:0]",
        "-A SUNDER -s 10.213.0.2/32 -j DROP",
        "-A SUNDER -s 10.213.0.3/32 -j DROP",
        "COMMIT",
    ]
    assert six.splitlines()[2] == "-A SUNDER -m mac --mac-source 02:42:0a:d5:00:02 -j DROP"


def test_rejecting_resets_tcp_and_refuses_the_rest() -> None:
    four, _ = links.rules([A], "reject")
    assert four.splitlines()[2:4] == [
        "-A SUNDER -s 10.213.0.2/32 -p tcp -j REJECT --reject-with tcp-reset",
        "-A SUNDER -s 10.213.0.2/32 -j REJECT",
    ]


def test_healing_is_an_empty_chain() -> None:
    assert links.rules([], "drop") == ("*filter\n:SUNDER - [0:0]\nCOMMIT",) * 2


@pytest.mark.parametrize(
    ("tables", "commands"),
    [
        (Tables("iptables", "ip6tables"), ["iptables", "ip6tables"]),
        (Tables("iptables-legacy", ""), ["iptables-legacy"]),
    ],
)
def test_a_script_restores_once_a_family_and_counts_first_when_asked(
    tables: Tables, commands: list[str]
) -> None:
    silent = links.script(tables, [A], "drop", count=False)
    assert [line.split()[0] for line in silent.splitlines() if "--noflush" in line] == [
        f"{command}-restore" for command in commands
    ]
    assert "-nvxL" not in silent
    counting = links.script(tables, [A], "drop", count=True)
    assert counting.index("-nvxL") < counting.index("--noflush")


def test_what_setup_prints_says_which_flavours_work() -> None:
    assert links.tables("iptables-legacy\nnone\n") == Tables("iptables-legacy", "")


LISTING = """\
Chain SUNDER (1 references)
    pkts      bytes target     prot opt in     out     source               destination
      12      720 REJECT     6    --  *      *       10.213.0.2           0.0.0.0/0            reject-with tcp-reset
       3      180 REJECT     0    --  *      *       10.213.0.2           0.0.0.0/0            reject-with icmp-port-unreachable
 4000000000 9999999999 DROP       0    --  *      *       10.213.0.3           0.0.0.0/0
"""


def test_packets_are_summed_over_our_rules() -> None:
    assert links.packets(LISTING) == 4000000015
    assert links.packets("Chain SUNDER (1 references)\n    pkts      bytes target     prot opt in\n") == 0


def test_a_summary_names_what_was_lost_and_counts_what_carried() -> None:
    seen = {("n1", "n2"): False, ("n2", "n1"): True, ("n1", "n3"): True}
    assert links.summary(seen) == {"carried": 2, "lost": ["n1>n2"]}


def test_the_supervisor_sends_remembers_and_lists() -> None:
    seen: dict[str, list[str]] = {}
    assert answer("send t 10.0.0.2 10.0.0.3", "host", seen) == ("sent t", ["10.0.0.2", "10.0.0.3"])
    assert answer("list t", "host", seen) == ("listed t", [])
    for source in ("10.0.0.2", "10.0.0.3", "10.0.0.2"):
        assert answer("seen t", source, seen) == ("", [])
    assert answer("list t", "host", seen) == ("listed t 10.0.0.2 10.0.0.3", [])
    assert answer("list another", "host", seen) == ("listed another", [])


@pytest.mark.parametrize("noise", ["", "send", "seen a b", "\ufffd\ufffd", "list"])
def test_the_supervisor_ignores_noise(noise: str) -> None:
    assert answer(noise, "anybody", {}) == ("", [])


def test_the_supervisor_forgets_the_oldest_probes() -> None:
    seen: dict[str, list[str]] = {}
    for number in range(TOKENS_MAX + 1):
        answer(f"seen {number}", "10.0.0.2", seen)
    assert len(seen) == TOKENS_MAX
    assert answer("list 0", "host", seen) == ("listed 0", [])
