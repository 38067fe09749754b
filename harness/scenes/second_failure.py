"""A node is away for long enough that one more failure could cost data, and somebody is told in time."""

from __future__ import annotations

from harness.scenes.scene import Ask, Load, Scene, Step
from nemeses.fault import HealPartition, Kill, Partition
from nemeses.partition import between

_KEYS = tuple(f"key{i}" for i in range(1, 7))
_OTHERS = ("home1", "home3", "fallback1", "fallback2")

SECOND_FAILURE = Scene(
    name="second-failure",
    sentence="Hints and the consistency horizon rise while a node is away; "
    "the alert fires before a second failure would lose data.",
    settings={
        "workload": "register",
        "nemesis": ("partition", "kill"),
        "nodes": 5,
        "concurrency": 10,
        "n": 3,
        "r": 2,
        "w": 1,
        "time_seconds": 600.0,
        "recovery_seconds": 30.0,
    },
    elastic=True,
    containers_seconds=60.0,
    keys=_KEYS,
    story=(
        Step(
            2.0,
            "Clients write six keys of one preference list. W is 1: a write counts as soon as one node has it.",
            (Load(fs=("put",), keys=_KEYS, through=_OTHERS, for_s=6, per_second=2),),
        ),
        Step(
            10.0,
            "The first failure: {home2} is cut off from all other nodes. Its own clients still reach it.",
            (Partition("isolate", tuple(sorted(between(("home2",), _OTHERS)))),),
        ),
        Step(
            14.0,
            "On the other side clients write on. What {home2} should have had is kept as hints, "
            "and no exchange with it is complete any more.",
            (Load(fs=("put",), keys=_KEYS, through=_OTHERS, for_s=390, per_second=0.5),),
            ("hints-rise", "horizon-tells"),
        ),
        Step(
            370.0,
            "Clients of {home2} write as well, and are told ok: W is 1. Those writes stand on {home2} and nowhere else. "
            "Were its disk to fail now, they would be lost.",
            (Load(fs=("put",), keys=("key1", "key2", "key3"), through=("home2",), for_s=30, per_second=0.2),),
            ("alert-in-time",),
        ),
        Step(
            420.0,
            "Whoever heard the alert has mended the network. Hints flow both ways, and every write is on other nodes again.",
            (HealPartition(),),
            ("danger-passes",),
        ),
        Step(540.0, "The second failure: {home2} dies.", (Kill(("home2",)),)),
        Step(
            560.0,
            "Clients of {home1} read every key, without {home2}.",
            tuple(Ask(f="get", key=key, through="home1", after_s=3.0 * i) for i, key in enumerate(_KEYS)),
            ("nothing-is-lost",),
        ),
    ),
)
