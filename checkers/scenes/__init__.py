"""What must be seen of each scene, by the scene's name: functions from what was seen to claims that held or did not."""

from __future__ import annotations

from collections.abc import Callable

from checkers.scenes.claim import Claim
from checkers.scenes.home_replica_failure import home_replica_failure
from checkers.scenes.hot_key import hot_key
from checkers.scenes.second_failure import second_failure
from checkers.scenes.stage import Stage
from checkers.scenes.stale_rejoin import stale_rejoin

CLAIMS: dict[str, Callable[[Stage], list[Claim]]] = {
    "home-replica-failure": home_replica_failure,
    "stale-rejoin": stale_rejoin,
    "hot-key": hot_key,
    "second-failure": second_failure,
}
