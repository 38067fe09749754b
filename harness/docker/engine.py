"""The one way to the Docker engine, the labels on everything that we make there, and what is said when none answers."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, cast

import docker
import docker.errors

Engine = Any
"""A `docker.DockerClient`. The SDK ships no types, so its answers are checked where they are used."""

RUN_LABEL = "sunder.run"
"""On every container and network: which run made it."""

OWNER_LABEL = "sunder.owner"
"""On every container and network: the process that made it, as `owner` writes it."""

KEEP_LABEL = "sunder.keep"
"""On what was left running on purpose: only an explicit `sunder reap` removes it."""


class DockerTrouble(Exception):
    """Something about the engine, the image or the containers; the message says what to do."""


class NoEngine(DockerTrouble):
    """No Docker engine answers; the message is one sentence with the remedy."""


def engine() -> Engine:
    """A client of the engine that the environment names (`DOCKER_HOST`, else the local socket). Raises NoEngine."""
    try:
        client: Engine = cast(Any, docker).from_env()
    except docker.errors.DockerException as trouble:
        raise NoEngine(_why(trouble)) from trouble
    return client


def _why(trouble: BaseException) -> str:
    """The remedy that fits the cause, which the SDK buries several exceptions deep."""
    causes: list[BaseException] = []
    current: BaseException | None = trouble
    while current is not None and current not in causes:
        causes.append(current)
        causes.extend(cause for cause in current.args if isinstance(cause, BaseException))
        current = current.__cause__ or current.__context__
    where = os.environ.get("DOCKER_HOST", "the local socket")
    if any(isinstance(cause, PermissionError) or "Permission denied" in str(cause) for cause in causes):
        return (
            "A Docker engine is there, but this user may not talk to it: "
            "run as root, or join the group docker (usermod -aG docker $USER) and log in again."
        )
    if "DOCKER_HOST" in os.environ:
        return f"No Docker engine answers at DOCKER_HOST={where}: start it there, or unset DOCKER_HOST."
    return (
        "No Docker engine answers: install one (apt-get install docker.io) and start it "
        "(systemctl start docker, or dockerd as root where there is no service manager), or use --world sim."
    )


def owner(pid: int | None = None) -> str:
    """A process by a name that is never given twice: boot, PID namespace, PID and start time.

    Raises ProcessLookupError when no such process lives.
    """
    pid = os.getpid() if pid is None else pid
    try:
        # The command in parentheses may hold spaces and parentheses: fields are counted from its end (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    except FileNotFoundError as gone:
        raise ProcessLookupError(pid) from gone
    if fields[0] in "ZX":
        raise ProcessLookupError(pid)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{namespace}/{pid}/{fields[19]}"


def lives(label: str) -> bool:
    """Whether the process that `owner` named may still live. One in another PID namespace of this boot may: we cannot see it."""
    boot, namespace, pid, _start = label.split("/")
    here_boot, here_namespace, _pid, _start = owner().split("/")
    if boot != here_boot:
        return False
    if namespace != here_namespace:
        return True
    try:
        return owner(int(pid)) == label
    except ProcessLookupError:
        return False


def new_run() -> str:
    """An unguessable name for one run's containers and network."""
    return secrets.token_hex(5)


def labels(run: str, *, keep: bool = False) -> dict[str, str]:
    """What marks a container or a network as ours."""
    return {RUN_LABEL: run, OWNER_LABEL: owner()} | ({KEEP_LABEL: "1"} if keep else {})
