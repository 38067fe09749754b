"""Nothing is left behind: not by Ctrl-C, not by SIGTERM, not by an error, and kill -9 leaves only what the next run reaps."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_nodes import docker_engine, held, node_image, stub_store, stub_world

from harness.docker import subnets
from harness.docker.engine import NoEngine, engine, lives, owner
from harness.docker.reap import reap, remove
from harness.docker.world import DockerWorld

HERE = Path(__file__).parent

RUNS = """
import sys
from pathlib import Path
from harness.docker.world import DockerWorld

folder, code, tag = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
world = DockerWorld(("n1", "n2"), lambda node, addresses: b"{}", code, tag, folder, 1)
print(world.run_id, flush=True)

async def main():
    await world.start()
    print("started", flush=True)
    await world.sleep(60_000_000_000)

try:
    world.run(main())
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise SystemExit(130)
"""


class Owner:
    """A process of its own that runs a world for a minute unless something happens to it."""

    def __init__(self, folder: Path) -> None:
        tag = node_image()
        self.folder = folder
        command = [sys.executable, "-c", RUNS, str(folder), str(stub_store(folder)), tag]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.run_id = self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self, by: int) -> int:
        self.process.send_signal(by)
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        with docker_engine() as client:
            remove(client, self.run_id)


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[Owner]:
    made = Owner(tmp_path)
    yield made
    made.close()


@pytest.mark.docker
def test_ctrl_c_leaves_nothing_and_is_passed_on(owned: Owner) -> None:
    assert owned.line() == "started"
    assert len(held(owned.run_id)) == 3
    assert owned.end(signal.SIGINT) == 130
    assert owned.line() == "interrupted"
    assert held(owned.run_id) == []
    assert (owned.folder / "nodes" / "n1.log").read_text().startswith("up\n")


@pytest.mark.docker
def test_ctrl_c_in_the_middle_of_the_start_leaves_nothing(owned: Owner) -> None:
    while not held(owned.run_id):
        time.sleep(0.01)
    assert owned.end(signal.SIGINT) == 130
    assert held(owned.run_id) == []


@pytest.mark.docker
def test_an_impatient_second_ctrl_c_leaves_nothing_either(owned: Owner) -> None:
    assert owned.line() == "started"
    owned.process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    assert owned.end(signal.SIGINT) == 130
    assert held(owned.run_id) == []


@pytest.mark.docker
def test_sigterm_leaves_nothing(owned: Owner) -> None:
    assert owned.line() == "started"
    assert owned.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert held(owned.run_id) == []


@pytest.mark.docker
def test_after_kill_9_reaping_takes_what_the_dead_run_left_and_no_more(owned: Owner, tmp_path: Path) -> None:
    world = stub_world(tmp_path / "living", "n1")

    async def play() -> None:
        assert owned.line() == "started"
        # Started while the other lives: what it holds must survive the reaping at our start.
        await world.start()
        assert len(held(owned.run_id)) == 3
        owned.end(signal.SIGKILL)
        left = held(owned.run_id)
        assert len(left) == 3
        with docker_engine() as client:
            client.api.pause(f"sunder-{owned.run_id}-n1")
            reaped = reap(client)
        assert set(left) <= {*reaped.containers, *reaped.networks}
        assert held(owned.run_id) == []
        assert len(held(world.run_id)) == 2
        assert reaped.living >= 1

    world.run(play())


@pytest.mark.docker
def test_the_start_of_a_run_reaps_what_a_killed_one_left(owned: Owner, tmp_path: Path) -> None:
    assert owned.line() == "started"
    owned.end(signal.SIGKILL)
    world = stub_world(tmp_path / "next", "n1")

    async def play() -> None:
        await world.start()
        assert held(owned.run_id) == []

    world.run(play())
    assert held(world.run_id) == []


@pytest.mark.docker
def test_an_error_is_passed_on_after_the_cleaning(tmp_path: Path) -> None:
    world = stub_world(tmp_path, "n1")

    async def play() -> None:
        await world.start()
        raise LookupError("as it was")

    with pytest.raises(LookupError, match="as it was"):
        world.run(play())
    assert held(world.run_id) == []


@pytest.mark.docker
def test_a_start_that_is_cancelled_between_containers_leaves_nothing(tmp_path: Path) -> None:
    world = stub_world(tmp_path, "n1", "n2", "n3")

    async def play() -> None:
        starting = world.spawn(world.start(), name="start")
        while not any("-n" in name for name in await asyncio.to_thread(held, world.run_id)):
            await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await world.stop()
        assert held(world.run_id) == []

    world.run(play())
    assert held(world.run_id) == []


@pytest.mark.docker
def test_stopping_twice_is_once(tmp_path: Path) -> None:
    world = stub_world(tmp_path, "n1")

    async def play() -> int:
        await world.start()
        await world.stop()
        await world.stop()
        return 5

    assert world.run(play()) == 5
    assert world.logs()["n1"].startswith("up\n")


@pytest.mark.docker
def test_what_was_left_running_on_purpose_goes_only_on_request(tmp_path: Path) -> None:
    program = RUNS.replace("folder, 1)", "folder, 1, leave_running=True)").replace(
        "await world.sleep(60_000_000_000)", ""
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(stub_store(tmp_path)), node_image()]
    run_id = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    with docker_engine() as client:
        try:
            assert len(held(run_id)) == 3
            reap(client, all=False)
            assert len(held(run_id)) == 3
            reap(client)
            assert held(run_id) == []
        finally:
            remove(client, run_id)


@pytest.mark.docker
def test_two_runs_at_once_get_networks_of_their_own(tmp_path: Path) -> None:
    worlds = [stub_world(tmp_path / name, "n1") for name in ("one", "two")]

    async def play() -> set[str]:
        await asyncio.gather(*(world.start() for world in worlds))
        try:
            return {world.address("n1") for world in worlds}
        finally:
            await worlds[1].stop()

    assert len(worlds[0].run(play())) == 2


def test_an_owner_lives_as_long_as_its_process_and_not_longer() -> None:
    assert lives(owner())
    boot, namespace, pid, start = owner().split("/")
    assert not lives(f"{boot}/{namespace}/{pid}/{int(start) + 1}"), "the PID was given again"
    assert not lives(f"another-boot/{namespace}/{pid}/{start}")
    assert lives(f"{boot}/1/{pid}/{start}"), "another PID namespace cannot be judged from here"
    with subprocess.Popen(["sleep", "60"]) as child:
        label = owner(child.pid)
        assert lives(label)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not lives(label), "a zombie owns nothing"


def test_no_engine_is_one_sentence_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(
        NoEngine, match=r"^No Docker engine answers at DOCKER_HOST=unix://.*: start it there"
    ) as caught:
        engine()
    assert "\n" not in str(caught.value)


def test_an_engine_that_may_not_be_used_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_door: socket.socket, _address: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(NoEngine, match="join the group docker"):
        engine()


def test_a_world_without_an_engine_says_so_and_cleans_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    world = DockerWorld(("n1",), lambda _node, _addresses: b"{}", stub_store(tmp_path), "none", tmp_path, 1)
    with pytest.raises(NoEngine):
        world.run(world.start())


ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
tun0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
"""


def test_routes_are_read_as_networks_and_the_default_is_none() -> None:
    assert [str(network) for network in subnets.routes(ROUTES)] == ["192.0.2.0/24", "10.0.0.0/8"]


def test_no_subnet_is_offered_that_a_route_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Path.read_text

    def read(path: Path, *arguments: Any, **options: Any) -> str:
        return ROUTES if str(path) == "/proc/net/route" else reads(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", read)
    offered = list(subnets.free())
    assert {str(subnet).split(".")[0] for subnet in offered} == {"172", "192"}
    assert len(offered) == len(set(offered)) == 512
