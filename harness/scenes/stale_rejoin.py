"""A node comes back with old data beside new, and the clocks say which is which."""

from __future__ import annotations

from harness.scenes.scene import Ask, Scene, Step
from nemeses.fault import HealPartition, Partition
from nemeses.partition import between

_NEAR = ("home1", "home3", "fallback1")
_FAR = ("home2", "fallback2")

STALE_REJOIN = Scene(
    name="stale-rejoin",
    sentence="A home replica is cut off and routed round; on its return the clocks tell stale from concurrent: nothing is lost.",
    settings={
        "workload": "register",
        "nemesis": ("partition",),
        "nodes": 5,
        "concurrency": 10,
        "n": 3,
        "r": 2,
        "w": 2,
        "time_seconds": 17.0,
        "recovery_seconds": 30.0,
    },
    keys=("stale", "concurrent"),
    story=(
        Step(
            0.5,
            "A client of {home1} writes {stale} and {concurrent}: all three home replicas hold both.",
            (
                Ask(f="put", key="stale", through="home1"),
                Ask(f="put", key="concurrent", through="home1", after_s=0.3),
                Ask(f="get", key="concurrent", through="home2", after_s=1.0),
            ),
        ),
        Step(
            2.5,
            "{home2} and {fallback2} are cut off from {home1}, {home3} and {fallback1}. Clients still reach both sides.",
            (Partition("custom", tuple(sorted(between(_NEAR, _FAR)))),),
        ),
        Step(
            6.0,
            "{home1} replaces {stale}, and routes round {home2}: {fallback1} keeps the write for it. {home2} is stale now.",
            (Ask(f="put", key="stale", through="home1"),),
            ("routed-round",),
        ),
        Step(
            6.5,
            "{concurrent} is replaced on both sides, through {home1} and through {home2}, neither knowing of the other's write.",
            (
                Ask(f="put", key="concurrent", through="home1"),
                Ask(f="put", key="concurrent", through="home2"),
            ),
            ("clocks-tell",),
        ),
        Step(
            9.0,
            "The network heals. {home2} is back on its preference list, and hints flow both ways.",
            (HealPartition(),),
            ("stale-is-replaced", "concurrent-are-siblings"),
        ),
        Step(
            15.0,
            "A client of {home3} reads {concurrent}, sees both siblings, and replaces them by one.",
            (
                Ask(f="get", key="concurrent", through="home3"),
                Ask(f="put", key="concurrent", through="home3", after_s=0.8),
            ),
            ("siblings-are-resolved",),
        ),
    ),
)
