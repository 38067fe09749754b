"""Says which faults containers can suffer here, by which mechanism, and what would help where they cannot."""

from __future__ import annotations

import contextlib

import docker.errors
import msgspec

from harness.docker import image, links
from harness.docker.engine import Engine, NoEngine, engine, run_once
from harness.world import BY_THE_SYSTEM, Support


class Diagnosis(msgspec.Struct, frozen=True):
    """The engine and the image as they are, and each fault family's support."""

    engine: str
    """The engine's version, or what to do to get one."""
    image: str
    """The node image's tag, or what to do to get one."""
    supports: tuple[Support, ...]


def diagnose() -> list[Support]:
    """The support of every family, by trying it where trying is cheap. Never raises for a missing engine or image."""
    return list(examine().supports)


def examine() -> Diagnosis:
    """Looks for the engine and the image, and tries iptables in a container of that image that lives a second."""
    try:
        client = engine()
    except NoEngine as missing:
        return Diagnosis(str(missing), "", _without(str(missing)))
    with contextlib.closing(client):
        version = f"Docker {client.version()['Version']}"
        try:
            tag = image.current(client)
        except image.NoImage as missing:
            return Diagnosis(version, str(missing), _without(str(missing)))
        return Diagnosis(version, tag, tuple(supports(can_cut(client, tag)).values()))


def can_cut(client: Engine, tag: str) -> bool:
    """Whether rules can be set inside a container of the image."""
    try:
        status, said = run_once(
            client, tag, ["bash", "-c", links.SETUP], cap_add=["NET_ADMIN"], network_mode="none"
        )
    except docker.errors.APIError:
        return False
    return status == 0 and bool(links.tables(said).four)


def supports(cuts: bool) -> dict[str, Support]:
    """By family; `cuts` says whether iptables works inside the containers."""
    found = [
        Support("partition", links.MECHANISM)
        if cuts
        else Support(
            "partition",
            remedy="iptables does not work inside the containers: load the kernel's filter tables on this machine "
            "(modprobe nf_tables ip_tables), and let the engine grant NET_ADMIN.",
        ),
        Support("kill", "SIGKILL to the store's process; its container stays"),
        Support("pause", "SIGSTOP to the store's process"),
        Support("clock", remedy="Clock faults are made in the simulator only so far: use --world sim."),
        Support("power", remedy="Power loss is made in the simulator only so far: use --world sim."),
        *(
            Support(family, remedy=f"{what} in the simulator only so far: use --world sim.")
            for family, what in (
                ("wipe", "Disks are wiped"),
                ("rollback", "Old copies of disks are put back"),
                ("rot", "Disks rot"),
                ("fsync", "Fsyncs fail"),
                ("disk-full", "Disks fill up"),
            )
        ),
        BY_THE_SYSTEM,
    ]
    return {support.family: support for support in found}


def _without(remedy: str) -> tuple[Support, ...]:
    return tuple(Support(family, remedy=remedy) for family in supports(False))
