"""Line 0 of every history: what was run, and which promises the system under test had made."""

from __future__ import annotations

from typing import Any

import msgspec

FORMAT = "sunder-history"
VERSION = 1


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a checker may know besides the operations. No wall time, no paths: equal runs have equal headers.

    `guarantees` maps a checker's name to what was promised (see docs/checkers.md): absent means that the checker
    only measures. `families` are the fault families that the run asked for; `mechanisms` maps each to how this world
    makes it.
    """

    format: str = FORMAT
    version: int = VERSION
    name: str = "run"
    world: str = "sim"
    system: str = "dynamo"
    workload: str = ""
    seed: int = 0
    nodes: tuple[str, ...] = ()
    guarantees: dict[str, Any] = {}
    families: tuple[str, ...] = ()
    mechanisms: dict[str, str] = {}
    config: dict[str, Any] = {}
