"""Runs the store's nodes as containers on a network of their own, breaks them for real, and proves each break."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import docker.errors
import docker.types
import msgspec
import uvloop

from harness.docker import image, processes, subnets
from harness.docker.doctor import diagnose, supports
from harness.docker.engine import DockerTrouble, Engine, engine, labels, new_run
from harness.docker.node import CONFIG, HTTP_PORT, LOG, Node, NotReady, everywhere
from harness.docker.partition import Partitioner
from harness.docker.reap import reap, remove
from harness.docker.shell import Shell
from harness.docker.transport import HttpTransport
from harness.world import Refused, Silence, Support, Unsupported
from nemeses.fault import (
    FAMILY_OF,
    Evidence,
    FailFsync,
    Fault,
    FillDisk,
    HealPartition,
    Join,
    Kill,
    Leave,
    Link,
    MendDisk,
    Partition,
    Pause,
    PowerLoss,
    Replace,
    ResetClocks,
    Restart,
    Resume,
    Rollback,
    Rot,
    SettleRing,
    Skew,
    SlowFsync,
    Snapshot,
    Wipe,
)

T = TypeVar("T")

LOGGER = logging.getLogger(__name__)

DIRECTORY = "/var/lib/sunder"
"""The nodes' data directory: a tmpfs, so that it costs no disk. It outlives the process and goes with the container."""

DIRECTORY_BYTES_MAX = 512 << 20

SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n"
SCRAPE_NS = 1_000_000_000

START_S = 60.0
"""How long the nodes may take to answer at the start of a run."""


class DockerWorld:
    """Real nodes in containers; implements `harness.world.World`. Nothing happens before `start`."""

    def __init__(
        self,
        nodes: Iterable[str],
        config: Callable[[str, dict[str, str]], bytes],
        store_path: Path,
        image_tag: str,
        run_folder: Path,
        seed: int,
        *,
        leave_running: bool = False,
        ipv6: bool = False,
    ) -> None:
        """`config` gets a node's name and every node's IPv4 address and returns the JSON that the node reads.

        `store_path` is the directory that contains the `store` package (a mutant's, perhaps). Logs grow under
        `run_folder`/nodes while the run goes on. The seed changes nothing here: real nodes draw for themselves.
        With `ipv6` the nodes' interfaces speak IPv6 too (the engine turns it off otherwise).
        """
        self.seed = seed
        self._names = tuple(nodes)
        self._config = config
        self._store = (store_path / "store").resolve()
        self._image = image_tag
        self._folder = (run_folder / "nodes").resolve()
        self._leave_running = leave_running
        self._ipv6 = ipv6
        self._run = new_run()
        self._nodes: dict[str, Node] = {}
        self._addresses: dict[str, str] = {}
        self._diagnosed: dict[str, Support] = {}
        self._clients: list[Engine] = []
        self._creating: set[asyncio.Task[Any]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._transports: list[HttpTransport] = []
        self._scrapers: dict[str, HttpTransport] = {}
        self._partitioner: Partitioner | None = None
        self._turn = asyncio.Lock()
        self._started_ns: int | None = None
        self._clean = True
        """Whether the engine holds nothing of ours."""

    @property
    def name(self) -> str:
        return "docker"

    @property
    def nodes(self) -> tuple[str, ...]:
        return self._names

    @property
    def run_id(self) -> str:
        """The value of the label `sunder.run` on everything that belongs to this world."""
        return self._run

    def now_ns(self) -> int:
        return 0 if self._started_ns is None else time.monotonic_ns() - self._started_ns

    def sleep(self, delay_ns: int) -> Awaitable[None]:
        return asyncio.sleep(delay_ns / 1e9)

    def future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        # The loop keeps only a weak reference.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def address(self, node: str) -> str:
        """The node's IPv4 address, reachable from this machine."""
        return self._addresses[node]

    def addresses(self) -> dict[str, str]:
        return {name: f"http://{address}:{HTTP_PORT}" for name, address in self._addresses.items()}

    # Start and stop

    async def start(self) -> None:
        """Reaps leftovers, starts every node side by side, returns when each answers `GET /ping`.

        Raises NoEngine, NoImage or NotReady; `stop` still has to be called (`run` does).
        """
        assert self._started_ns is None, "a world starts once"
        if not self._store.is_dir():
            raise NotReady(f"{self._store} is not there: give the directory that holds the package `store`.")
        await self._made(self._prepare)
        self._addresses = await self._made(self._make_network)
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            async with asyncio.timeout(START_S):
                await everywhere(self._start_node(name) for name in self._names)
        except TimeoutError:
            raise NotReady(f"not every node was up in {START_S:g} s: is this machine very busy?") from None
        except docker.errors.APIError as trouble:
            raise NotReady(f"The engine started no node: {trouble.explanation or trouble}") from trouble
        # In the order of their names: nodes came up in whatever order they did.
        self._nodes = {name: self._nodes[name] for name in self._names}
        self._partitioner = Partitioner(self._nodes, self.now_ns)
        self._started_ns = time.monotonic_ns()

    async def stop(self) -> None:
        """Removes the containers and the network, whatever state they are in. The logs are in the run's folder.

        What cannot be removed is logged as a warning, not raised: cleaning up changes no verdict.
        """
        removal = asyncio.ensure_future(self._stop())
        cancelled: asyncio.CancelledError | None = None
        while not removal.done():
            try:
                await asyncio.shield(removal)
            except asyncio.CancelledError as again:
                # An interrupt during the cleaning does not end the cleaning; it is passed on afterwards.
                cancelled = again
        if cancelled is not None:
            raise cancelled
        removal.result()

    async def _stop(self) -> None:
        # A thread cannot be cancelled: what it is creating just now must exist before it can be removed.
        await asyncio.gather(*self._creating, return_exceptions=True)
        for transport in self._transports:
            transport.close()
        for node in self._nodes.values():
            node.shell.close()
        if not self._clean and not self._leave_running:
            await asyncio.to_thread(self._remove)
        while self._clients:
            self._clients.pop().close()

    def _remove(self) -> None:
        try:
            with contextlib.closing(engine()) as client:
                remove(client, self._run)
            self._clean = True
        except (
            Exception
        ) as trouble:  # whatever it is, it comes after the run and must not hide how that ended
            LOGGER.warning(
                "Containers of run %s may be left behind (%s): run `sunder reap`.", self._run, trouble
            )

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Drives `main` on a loop of its own. `stop` runs on every way out: errors, Ctrl-C and SIGTERM included.

        After Ctrl-C raises KeyboardInterrupt, after SIGTERM or SIGHUP SystemExit(128 + signal).
        """
        ended_by: list[int] = []
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(self._guard(main, ended_by))
        except asyncio.CancelledError:
            if ended_by:
                raise SystemExit(128 + ended_by[0]) from None
            raise
        finally:
            # A second Ctrl-C breaks out of the loop before `stop` is through.
            if not self._clean and not self._leave_running:
                self._remove()

    async def _guard(self, main: Coroutine[Any, Any, T], ended_by: list[int]) -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def end(by: int) -> None:
            ended_by.append(by)
            task.cancel()

        # asyncio.Runner sees to SIGINT. Only the main thread may handle signals.
        handled = (
            [signal.SIGTERM, signal.SIGHUP] if threading.current_thread() is threading.main_thread() else []
        )
        for each in handled:
            loop.add_signal_handler(each, end, each)
        try:
            return await main
        finally:
            await self.stop()
            for each in handled:
                loop.remove_signal_handler(each)

    def logs(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in self._names:
            path = self._folder / f"{name}.log"
            found[name] = path.read_text(errors="replace") if path.exists() else ""
        return found

    def _prepare(self) -> None:
        """Finds the engine and the image, and reaps what killed runs left."""
        client = engine()
        self._clients.append(client)
        try:
            client.images.get(self._image)
        except docker.errors.ImageNotFound as missing:
            raise image.NoImage(
                f"The node image {self._image} is not here: build it with `sunder image`."
            ) from missing
        reap(client, all=False)
        self._clean = False

    async def _made(self, create: Callable[..., T], *args: Any) -> T:
        """Runs something that creates in a thread, such that `stop` waits for it even when this task is cancelled."""
        task: asyncio.Task[T] = asyncio.get_running_loop().create_task(asyncio.to_thread(create, *args))
        self._creating.add(task)
        task.add_done_callback(self._creating.discard)
        return await asyncio.shield(task)

    def _make_network(self) -> dict[str, str]:
        """The nodes' addresses on a new network. Another run may take a subnet at the same time: then the next one."""
        for subnet in subnets.free():
            pools = [docker.types.IPAMPool(subnet=str(subnet), gateway=str(subnet[1]))]
            if self._ipv6:
                # A unique local prefix (RFC 4193) that follows from the subnet, hence as free as it is.
                pools.append(
                    docker.types.IPAMPool(
                        subnet=f"fd73:756e:{subnet.network_address.packed[1]:x}:{subnet.network_address.packed[2]:x}::/64"
                    )
                )
            try:
                self._clients[0].api.create_network(
                    f"sunder-{self._run}",
                    driver="bridge",
                    ipam=docker.types.IPAMConfig(pool_configs=pools),
                    labels=labels(self._run, keep=self._leave_running),
                    options={"com.docker.network.bridge.name": f"sunder-{self._run[:8]}"},
                    enable_ipv6=self._ipv6,
                    internal=True,  # this machine reaches the nodes; they reach nobody else
                )
            except docker.errors.APIError as trouble:
                if "overlap" in str(trouble).lower() or "conflict" in str(trouble).lower():
                    continue
                raise DockerTrouble(f"The engine made no network: {trouble.explanation}") from trouble
            return {name: str(subnet[2 + index]) for index, name in enumerate(self._names)}
        raise DockerTrouble(
            "No private /24 is free for the nodes' network: run `sunder reap`, or docker network prune."
        )

    async def _start_node(self, name: str) -> None:
        (self._folder / f"{name}.json").write_bytes(self._config(name, dict(self._addresses)))
        (self._folder / f"{name}.log").write_bytes(b"")
        client, container = await self._made(self._make_container, name)
        node = self._nodes[name] = Node(
            name, self._addresses[name], Shell(client, container), self._folder / f"{name}.log"
        )
        # The store first: it starts on one core while the chains are made.
        await node.launch()
        await node.set_up_links()
        if not await node.answers(START_S):
            raise NotReady(f"{name} does not answer GET /ping; {node.last_words()}")

    def _make_container(self, name: str) -> tuple[Engine, str]:
        # One client for each node, since the SDK does not promise that one may be shared between threads.
        client = engine()
        self._clients.append(client)
        api = client.api
        network = f"sunder-{self._run}"
        mounts = {
            str(self._store): {"bind": f"{image.CODE}/store", "mode": "ro"},
            str(self._folder / f"{name}.json"): {"bind": CONFIG, "mode": "ro"},
            str(self._folder / f"{name}.log"): {"bind": LOG, "mode": "rw"},
        }
        made = api.create_container(
            self._image,
            name=f"sunder-{self._run}-{name}",
            hostname=name,
            labels=labels(self._run, keep=self._leave_running) | {"sunder.node": name},
            host_config=api.create_host_config(
                cap_add=["NET_ADMIN"],
                binds=mounts,
                tmpfs={DIRECTORY: f"size={DIRECTORY_BYTES_MAX}"},
                network_mode=network,
                log_config=docker.types.LogConfig(type="none"),
            ),
            networking_config=api.create_networking_config(
                {network: api.create_endpoint_config(ipv4_address=self._addresses[name])}
            ),
        )
        api.start(made["Id"])
        return client, str(made["Id"])

    # Clients

    def transport(self, node: str, *, client: str) -> HttpTransport:
        """A way to the node's HTTP port; `client` changes nothing in this world."""
        assert node in self._names, node
        made = HttpTransport(lambda: (self._addresses[node], HTTP_PORT))
        self._transports.append(made)
        return made

    async def scrape(self, node: str) -> bytes | None:
        transport = self._scrapers.get(node)
        if transport is None:
            transport = self._scrapers[node] = self.transport(node, client="metrics")
        try:
            response = await transport.request(SCRAPE, SCRAPE_NS)
        except (Refused, Silence):
            return None
        head, _, page = response.partition(b"\r\n\r\n")
        return page if head.startswith(b"HTTP/1.1 200") else None

    # Faults

    def support(self, family: str) -> Support:
        """What this world can do: before `start` as the doctor finds it, afterwards as the running containers are."""
        if self._partitioner is not None:
            return supports(self._partitioner.possible)[family]
        if not self._diagnosed:
            self._diagnosed = {support.family: support for support in diagnose()}
        return self._diagnosed[family]

    async def inject(self, fault: Fault) -> Evidence:
        """Does what the fault says, one fault at a time.

        Raises Unsupported, or DockerTrouble when the engine or a container failed us.
        """
        assert self._partitioner is not None, "the world has not started"
        async with self._turn:
            match fault:
                case Partition(blocked=blocked, mode=mode):
                    return await self._cut(frozenset(blocked), mode)
                case HealPartition():
                    return await self._cut(frozenset())
                case Kill(nodes=names):
                    return await processes.kill(self._named(names), self.now_ns)
                case Restart(nodes=names):
                    return await processes.restart(self._named(names), self.now_ns)
                case Pause(nodes=names):
                    return await processes.pause(self._named(names), self.now_ns)
                case Resume(nodes=names):
                    return await processes.resume(self._named(names), self.now_ns)
                case Join() | Leave() | Replace() | SettleRing():
                    raise Unsupported("a ring is changed by the system under test, not by the world")
                case Skew() | ResetClocks():
                    raise Unsupported(self.support("clock").remedy)
                case PowerLoss():
                    raise Unsupported(self.support("power").remedy)
                case (
                    Wipe()
                    | Snapshot()
                    | Rollback()
                    | Rot()
                    | FailFsync()
                    | SlowFsync()
                    | FillDisk()
                    | MendDisk()
                ):
                    raise Unsupported(self.support(FAMILY_OF[msgspec.to_builtins(fault)["fault"]]).remedy)

    async def _cut(self, blocked: frozenset[Link], mode: Literal["drop", "reject"] = "drop") -> Evidence:
        assert self._partitioner is not None, "the world has not started"
        if not self._partitioner.possible:
            raise Unsupported(self.support("partition").remedy)
        return await self._partitioner.apply(blocked, mode)

    def _named(self, names: Iterable[str]) -> list[Node]:
        return [self._nodes[name] for name in names]
