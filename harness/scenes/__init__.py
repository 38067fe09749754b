"""Scenes: short stories of a store under one particular fault, each with what must be seen, runnable by name."""

from __future__ import annotations

from harness.scenes.home_replica_failure import HOME_REPLICA_FAILURE
from harness.scenes.hot_key import HOT_KEY
from harness.scenes.scene import Scene
from harness.scenes.second_failure import SECOND_FAILURE
from harness.scenes.stale_rejoin import STALE_REJOIN

SCENES: dict[str, Scene] = {s.name: s for s in (HOME_REPLICA_FAILURE, STALE_REJOIN, HOT_KEY, SECOND_FAILURE)}
"""`sunder run --scene` takes these names."""
