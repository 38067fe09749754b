"""Removes what earlier runs left in the engine, and never what a living one uses."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import docker.errors
import msgspec

from harness.docker.engine import KEEP_LABEL, OWNER_LABEL, RUN_LABEL, Engine, lives

REMOVAL_S = 30.0


class Reaped(msgspec.Struct, frozen=True):
    """What was removed, by name, and how many runs of living processes were left alone."""

    containers: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    living: int = 0

    def __bool__(self) -> bool:
        return bool(self.containers or self.networks)


def reap(client: Engine, all: bool = True) -> Reaped:
    """Removes the containers and networks of runs whose process no longer lives.

    `all` includes those that were left running on purpose; the reaping at the start of a run spares them.
    """
    labelled = _labelled(client, RUN_LABEL)
    dead: set[str] = set()
    living: set[str] = set()
    for _kind, _reference, marks in labelled:
        run = marks[RUN_LABEL]
        if not run:
            continue  # started by hand from an image of ours that once was a container
        if OWNER_LABEL in marks and lives(marks[OWNER_LABEL]):
            living.add(run)
        elif all or KEEP_LABEL not in marks:
            dead.add(run)
    removed = [remove(client, run) for run in sorted(dead - living)]
    return Reaped(
        containers=tuple(name for each in removed for name in each.containers),
        networks=tuple(name for each in removed for name in each.networks),
        living=len(living),
    )


def remove(client: Engine, run: str) -> Reaped:
    """Removes everything of one run, whoever owns it. Safe to call again, and while another does the same."""
    deadline = time.monotonic() + REMOVAL_S
    containers: set[str] = set()
    networks: set[str] = set()
    while True:
        found = _labelled(client, f"{RUN_LABEL}={run}")
        if not found:
            return Reaped(tuple(sorted(containers)), tuple(sorted(networks)))
        if time.monotonic() > deadline:
            left = ", ".join(str(reference) for _kind, reference, _marks in found)
            raise TimeoutError(f"the engine does not remove {left}: try `sunder reap` again")
        bodies = [str(reference) for kind, reference, _marks in found if kind == "container"]
        if bodies:
            with ThreadPoolExecutor(len(bodies)) as pool:
                names = list(pool.map(partial(_remove_container, client), bodies))
            containers.update(name for name in names if name)
        for kind, reference, _marks in found:
            if kind == "network":
                name = _remove_network(client, reference)
                networks.update([name] if name else [])


def _labelled(client: Engine, label: str) -> list[tuple[str, str, dict[str, str]]]:
    """(kind, id, labels) of every container and network with the label."""
    containers: list[Any] = client.api.containers(all=True, filters={"label": label})
    networks: list[Any] = client.api.networks(filters={"label": label})
    return [("container", each["Id"], each["Labels"]) for each in containers] + [
        ("network", each["Id"], each["Labels"]) for each in networks
    ]


def _remove_container(client: Engine, reference: str) -> str:
    """The name of what is gone now, or nothing when another removed it or the engine is not done with it yet."""
    try:
        container = client.api.inspect_container(reference)
        if container["State"].get("Paused"):
            client.api.unpause(reference)  # older engines cannot kill what is frozen
        client.api.remove_container(reference, force=True, v=True)
    except docker.errors.NotFound:
        return ""
    except docker.errors.APIError:
        time.sleep(0.05)  # "removal is already in progress": the caller looks again
        return ""
    return str(container["Name"]).lstrip("/")


def _remove_network(client: Engine, reference: str) -> str:
    try:
        name = client.api.inspect_network(reference)["Name"]
        client.api.remove_network(reference)
    except docker.errors.NotFound:
        return ""
    except docker.errors.APIError:
        time.sleep(0.05)  # "has active endpoints": a container of it is still going
        return ""
    return str(name)
