"""What a scene is made of: settings, and a timed story whose targets are seats in a key's preference list.

A seat is `home1`, `home2`, ... or `fallback1`, ...: who sits there is asked of the ring when the run begins. Faults of a story
are those of `nemeses/fault.py` with seats in the place of nodes; words may name seats and keys in braces.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from nemeses.fault import Fault


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One operation, `after_s` seconds after its step. `client` tells apart several clients of one node."""

    f: str
    key: str
    through: str
    after_s: float = 0.0
    client: int = 0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Operations at a steady rate from the step on, `fs` in turn. Each key has a client of its own (`by_key`), at the seats
    in turn; otherwise all clients of all seats take turns at all keys."""

    fs: tuple[str, ...]
    keys: tuple[str, ...]
    through: tuple[str, ...]
    for_s: float
    per_second: float
    by_key: bool = True
    at_once: int = 1
    """So many operations begin at the same moment."""


Act = Ask | Load | Fault


class Step(msgspec.Struct, frozen=True):
    """What happens at a moment of the story: told in words, done by acts."""

    at_s: float
    says: str
    acts: tuple[Act, ...] = ()
    shows: tuple[str, ...] = ()
    """The claims, by name, that are about this step."""


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """A story with the settings that it needs. What must be seen is asserted by `checkers/scenes`, under the same name.

    `keys` are roles: the first is the key whose preference list gives the seats. The others live on the same list (`list`), or
    on any that has `home1` among its homes (`home`).
    """

    name: str
    sentence: str
    settings: dict[str, Any]
    elastic: bool = False
    """Whether `--time` may stretch or compress the story, and with it the alert rules that it is held against."""
    containers_seconds: float | None = None
    """How long the story lasts in containers, if nothing else is said: they cannot hurry."""
    keys: tuple[str, ...]
    placed: Literal["list", "home"] = "list"
    stem: str = "k"
    story: tuple[Step, ...]
    terms: dict[str, Any] = {}
    """What the checker of this scene has to know besides the history."""

    def settings_in(self, world: str) -> dict[str, Any]:
        """The settings that it has in a world."""
        shorter = (
            {"time_seconds": self.containers_seconds} if world != "sim" and self.containers_seconds else {}
        )
        return {**self.settings, **shorter}

    def scale(self, time_seconds: float) -> float:
        """How much faster (below 1) or slower than written the story goes."""
        return time_seconds / self.settings["time_seconds"] if self.elastic else 1.0

    @property
    def clients(self) -> int:
        """Clients of each node."""
        return self.settings["concurrency"] // self.settings["nodes"]
