"""Everybody wants the same key at once."""

from __future__ import annotations

from harness.scenes.scene import Load, Scene, Step

_EVERYWHERE = ("home1", "home2", "home3", "fallback1", "fallback2")

HOT_KEY = Scene(
    name="hot-key",
    sentence="Many clients add to one key at once: siblings keep every write, and reads spread over the replicas. "
    "In lww mode some are lost, and counted.",
    settings={
        "workload": "set",
        "nemesis": (),
        "nodes": 5,
        "concurrency": 15,
        "n": 3,
        "r": 2,
        "w": 2,
        "time_seconds": 9.0,
        "recovery_seconds": 30.0,
    },
    keys=("hot",),
    stem="hot",
    story=(
        Step(
            0.5,
            "Fifteen clients at all five nodes read the set {hot}, add an element and write it back, a hundred times a "
            "second. Its home replicas are {home1}, {home2} and {home3}.",
            (
                Load(
                    fs=("add", "read", "add"),
                    keys=("hot",),
                    through=_EVERYWHERE,
                    for_s=6.0,
                    per_second=100,
                    by_key=False,
                    at_once=15,
                ),
            ),
            ("writes-conflict", "reads-spread"),
        ),
        Step(6.5, "The rush is over.", shows=("siblings-keep-every-write", "last-writer-wins-loses")),
    ),
)
