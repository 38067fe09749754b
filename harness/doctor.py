"""Which faults work here: every world with every fault family, its mechanism, or what would help."""

from __future__ import annotations

import msgspec

from harness.settings import Settings
from harness.world import Support
from nemeses.fault import FAMILIES


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One family in one world. `mechanism` is empty where it does not work; `remedy` then says what would help."""

    world: str
    family: str
    mechanism: str
    remedy: str

    @property
    def works(self) -> bool:
        return bool(self.mechanism)


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a world stands on, as it was found or with what to do."""

    world: str
    what: str
    found: str


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """All that the doctor found."""

    findings: tuple[Finding, ...]
    grounds: tuple[Ground, ...]


def examine() -> Examination:
    """Asks the simulator and looks for a Docker engine. A missing engine is a finding, never an error."""
    from harness.docker.doctor import examine as examine_docker

    docker = examine_docker()
    return Examination(
        findings=(*_findings("sim", _simulator()), *_findings("docker", docker.supports)),
        grounds=(
            Ground(world="docker", what="engine", found=docker.engine),
            *((Ground(world="docker", what="image", found=docker.image),) if docker.image else ()),
        ),
    )


def _simulator() -> tuple[Support, ...]:
    from harness.runner import build_world

    world = build_world(Settings(), 0, None)
    return tuple(world.support(family) for family in FAMILIES)


def _findings(world: str, supports: tuple[Support, ...]) -> tuple[Finding, ...]:
    return tuple(
        Finding(world=world, family=s.family, mechanism=s.mechanism, remedy="" if s.mechanism else s.remedy)
        for s in supports
    )
