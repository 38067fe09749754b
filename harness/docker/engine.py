"""The one way to the Docker engine, the labels on everything that we make there, and what is said when none answers."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Any, cast

import docker
import docker.errors

Engine = Any
"""A `docker.DockerClient`. The SDK ships no types, so its answers are checked where they are used."""

LOCAL = "unix:///var/run/docker.sock"
DOOR_S = 10.0

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
    host = os.environ.get("DOCKER_HOST") or LOCAL
    try:
        if host.startswith("unix://"):
            # Asked first by ourselves: the SDK buries the reason, and leaves its socket open when there is nobody.
            with socket.socket(socket.AF_UNIX) as door:
                door.settimeout(DOOR_S)
                door.connect(host.removeprefix("unix://"))
        client: Engine = cast(Any, docker).from_env()
    except PermissionError as trouble:
        raise NoEngine(
            "A Docker engine is there, but this user may not talk to it: "
            "run as root, or join the group docker (usermod -aG docker $USER) and log in again."
        ) from trouble
    except (OSError, docker.errors.DockerException) as trouble:
        if host != LOCAL:
            raise NoEngine(
                f"No Docker engine answers at DOCKER_HOST={host}: start it there, or unset DOCKER_HOST."
            ) from trouble
        raise NoEngine(
            "No Docker engine answers: install one (apt-get install docker.io) and start it (systemctl start docker, "
            "or dockerd as root where there is no service manager), or use --world sim."
        ) from trouble
    return client


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
    if label.count("/") != 3:
        return True  # another version's way to write it: not ours to judge
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


def run_once(client: Engine, image: str, command: list[str], **options: Any) -> tuple[int, str]:
    """Runs a command (no entrypoint) in a new container; returns its status and what it wrote. The container goes again.

    Raises the SDK's APIError when the image cannot run it at all.
    """
    container = client.containers.create(
        image, command[1:], entrypoint=command[:1], labels=labels(new_run()), **options
    )
    try:
        container.start()
        status = int(container.wait()["StatusCode"])
        return status, str(container.logs().decode(errors="replace"))
    finally:
        container.remove(force=True, v=True)


def labels(run: str, *, keep: bool = False) -> dict[str, str]:
    """What marks a container or a network as ours."""
    return {RUN_LABEL: run, OWNER_LABEL: owner()} | ({KEEP_LABEL: "1"} if keep else {})
