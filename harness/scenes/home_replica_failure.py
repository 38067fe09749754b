"""A home replica dies, and nobody who writes has to care."""

from __future__ import annotations

from harness.scenes.scene import Load, Scene, Step
from nemeses.fault import Kill, Restart

_KEYS = tuple(f"key{i}" for i in range(1, 13))
_OTHERS = ("home2", "home3", "fallback1", "fallback2")

HOME_REPLICA_FAILURE = Scene(
    name="home-replica-failure",
    sentence="A home replica dies; writes go on through the sloppy quorum; hints bring everything back.",
    settings={
        "workload": "register",
        "nemesis": ("kill",),
        "nodes": 5,
        "concurrency": 15,
        "n": 3,
        "r": 2,
        "w": 2,
        "time_seconds": 12.0,
        "recovery_seconds": 30.0,
    },
    keys=_KEYS,
    placed="home",
    story=(
        Step(
            0.5,
            "Clients write twelve keys that all have {home1} among their home replicas.",
            (Load(fs=("put",), keys=_KEYS, through=_OTHERS, for_s=1.5, per_second=16),),
        ),
        Step(3.0, "{home1} dies.", (Kill(("home1",)),)),
        Step(
            3.2,
            "The clients write on. What {home1} should have taken the next node of the preference list keeps, with a hint.",
            (Load(fs=("put",), keys=_KEYS, through=_OTHERS, for_s=6.0, per_second=16),),
            ("writes-go-on", "hints-rise"),
        ),
        Step(
            10.0,
            "{home1} starts again, on what its disk holds. The hints are handed off.",
            (Restart(("home1",)),),
            ("hints-drain", "brought-back"),
        ),
    ),
)
