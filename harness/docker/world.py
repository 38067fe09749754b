"""Runs the store's nodes as containers on a network of their own, breaks them for real, and proves each break."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import docker.errors
import docker.types
import uvloop

from harness.docker import image, links
from harness.docker.doctor import supports
from harness.docker.engine import DockerTrouble, Engine, engine, labels, new_run
from harness.docker.links import Peer, Tables
from harness.docker.reachability import Reachability
from harness.docker.reap import reap, remove
from harness.docker.shell import Shell
from harness.docker.transport import HttpTransport
from harness.world import Refused, Silence, Support, Unsupported
from nemeses.fault import (
    Evidence,
    Fault,
    HealPartition,
    Kill,
    Link,
    Partition,
    Pause,
    PowerLoss,
    ResetClocks,
    Restart,
    Resume,
    Skew,
)

T = TypeVar("T")

HTTP_PORT = 8000
PEER_PORT = 8001
DIRECTORY = "/var/lib/sunder"
"""The nodes' data directory: a tmpfs, so that it costs no disk. It outlives the process and goes with the container."""

CONFIG = "/run/sunder/config.json"
LOG = "/var/log/sunder.log"
DIRECTORY_BYTES_MAX = 512 << 20

START_S = 60.0
"""How long the nodes may take to answer at the start of a run."""
RESTART_S = 20.0
STATE_S = 5.0
"""How long a process may take to die or to stop after its signal."""
POLL_S = 0.01
PING = b"GET /ping HTTP/1.1\r\nHost: node\r\n\r\n"
PING_TIMEOUT_NS = 1_000_000_000
LAUNCH = f"( setsid python3 -m store --config {CONFIG} >>{LOG} 2>&1 </dev/null & echo $! )"
"""In a session of its own under process 1, so that the store outlives the shell that started it."""


class NotReady(DockerTrouble):
    """A node did not come up; the message holds the end of its log."""


class _Node:
    """What we know of one node's container."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.shell: Shell | None = None
        self.peer = Peer(address, "")
        self.tables = Tables("", "")
        self.pid = 0
        self.born = ""
        """The process's start time in clock ticks: with the PID it names the process for certain."""


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
        self._nodes: dict[str, _Node] = {}
        self._clients: list[Engine] = []
        self._creating: set[asyncio.Task[Any]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._transports: list[HttpTransport] = []
        self._reachability: Reachability | None = None
        self._blocked: frozenset[Link] = frozenset()
        self._mode = "drop"
        self._caught = 0
        """Packets caught by rules that were replaced since."""
        self._probed = 0
        """The most of them that can have been our own probes."""
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
        return self._nodes[node].address

    # Start and stop

    async def start(self) -> None:
        """Reaps leftovers, starts every node side by side, returns when each answers `GET /ping`.

        Raises NoEngine, NoImage or NotReady; `stop` still has to be called (`run` does).
        """
        assert self._started_ns is None, "a world starts once"
        if not self._store.is_dir():
            raise NotReady(f"{self._store} is not there: give the directory that holds the package `store`.")
        await self._made(self._prepare)
        addresses = await self._made(self._make_network)
        self._nodes = {name: _Node(name, address) for name, address in addresses.items()}
        self._reachability = Reachability(addresses)
        self._folder.mkdir(parents=True, exist_ok=True)
        async with asyncio.timeout(START_S):
            await _all(self._start_node(node) for node in self._nodes.values())
        self._started_ns = time.monotonic_ns()

    async def stop(self) -> None:
        """Removes the containers and the network, whatever state they are in. The logs are in the run's folder."""
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
            if node.shell is not None:
                node.shell.close()
        if not self._clean and not self._leave_running:
            await asyncio.to_thread(self._remove)
        while self._clients:
            self._clients.pop().close()

    def _remove(self) -> None:
        with contextlib.closing(engine()) as client:
            remove(client, self._run)
        self._clean = True

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Drives `main` on a loop of its own. `stop` runs on every way out: errors, Ctrl-C and SIGTERM included.

        After Ctrl-C raises KeyboardInterrupt, after SIGTERM SystemExit(143).
        """
        terminated: list[int] = []
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(self._guard(main, terminated))
        except asyncio.CancelledError:
            if terminated:
                raise SystemExit(128 + signal.SIGTERM) from None
            raise
        finally:
            # A second Ctrl-C breaks out of the loop before `stop` is through.
            if not self._clean and not self._leave_running:
                self._remove()

    async def _guard(self, main: Coroutine[Any, Any, T], terminated: list[int]) -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def terminate() -> None:
            terminated.append(signal.SIGTERM)
            task.cancel()

        handles = threading.current_thread() is threading.main_thread()
        if handles:
            loop.add_signal_handler(signal.SIGTERM, terminate)
        try:
            return await main
        finally:
            await self.stop()
            if handles:
                loop.remove_signal_handler(signal.SIGTERM)

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
        for subnet in _free_subnets():
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

    async def _start_node(self, node: _Node) -> None:
        (self._folder / f"{node.name}.json").write_bytes(
            self._config(node.name, {each.name: each.address for each in self._nodes.values()})
        )
        (self._folder / f"{node.name}.log").write_bytes(b"")
        client, container = await self._made(self._make_container, node)
        node.shell = Shell(client, container)
        # The store first: it starts on one core while the rules are prepared.
        await self._launch(node)
        said = await node.shell.run(f"cat /sys/class/net/eth0/address\n{links.SETUP}")
        mac, _, printed = said.output.strip().partition("\n")
        node.peer = Peer(node.address, mac)
        node.tables = links.tables(printed)
        if not await self._answers(node, START_S):
            raise NotReady(f"{node.name} does not answer GET /ping; {self._last_words(node)}")

    def _make_container(self, node: _Node) -> tuple[Engine, str]:
        # One client for each node, since the SDK does not promise that one may be shared between threads.
        client = engine()
        self._clients.append(client)
        api = client.api
        network = f"sunder-{self._run}"
        mounts = {
            str(self._store): {"bind": f"{image.CODE}/store", "mode": "ro"},
            str(self._folder / f"{node.name}.json"): {"bind": CONFIG, "mode": "ro"},
            str(self._folder / f"{node.name}.log"): {"bind": LOG, "mode": "rw"},
        }
        made = api.create_container(
            self._image,
            name=f"sunder-{self._run}-{node.name}",
            hostname=node.name,
            labels=labels(self._run, keep=self._leave_running) | {"sunder.node": node.name},
            host_config=api.create_host_config(
                cap_add=["NET_ADMIN"],
                binds=mounts,
                tmpfs={DIRECTORY: f"size={DIRECTORY_BYTES_MAX}"},
                network_mode=network,
                log_config=docker.types.LogConfig(type="none"),
            ),
            networking_config=api.create_networking_config(
                {network: api.create_endpoint_config(ipv4_address=node.address)}
            ),
        )
        api.start(made["Id"])
        return client, str(made["Id"])

    # Clients

    def transport(self, node: str, *, client: str) -> HttpTransport:
        """A way to the node's HTTP port; `client` changes nothing in this world."""
        made = HttpTransport(self._nodes[node].address, HTTP_PORT)
        self._transports.append(made)
        return made

    # Faults

    def support(self, family: str) -> Support:
        """What this world can do; after `start` it speaks of the containers that run."""
        can_cut = all(node.tables.four for node in self._nodes.values())
        return supports(can_cut)[family]

    async def inject(self, fault: Fault) -> Evidence:
        """Does what the fault says. Raises Unsupported, or DockerTrouble when the engine or a container failed us."""
        match fault:
            case Partition(blocked=blocked, mode=mode):
                return await self._cut(frozenset(blocked), mode)
            case HealPartition():
                return await self._cut(frozenset(), "drop")
            case Kill(nodes=names):
                return await self._kill(self._named(names))
            case Restart(nodes=names):
                return await self._restart(self._named(names))
            case Pause(nodes=names):
                return await self._signal(self._named(names), "STOP", stopped=True)
            case Resume(nodes=names):
                return await self._signal(self._named(names), "CONT", stopped=False)
            case Skew() | ResetClocks():
                raise Unsupported(self.support("clock").remedy)
            case PowerLoss():
                raise Unsupported(self.support("power").remedy)

    def _named(self, names: Iterable[str]) -> list[_Node]:
        return [self._nodes[name] for name in names]

    async def _cut(self, blocked: frozenset[Link], mode: Any) -> Evidence:
        """Replaces the partition by exactly these links (none: heals) and probes every link before and after."""
        support = self.support("partition")
        if not support.mechanism:
            raise Unsupported(support.remedy)
        unknown = {end for link in blocked for end in link} - set(self._names)
        assert not unknown, unknown
        before = await self._probe()
        standing = bool(self._blocked)
        began_ns = time.monotonic_ns()
        replies = await _all(
            self._sh(node).run(
                links.script(
                    node.tables,
                    [self._nodes[source].peer for source in links.blocked_sources(blocked, node.name)],
                    mode,
                    count=standing,
                )
            )
            for node in self._nodes.values()
        )
        applied_ns = time.monotonic_ns() - began_ns
        injected_ns = self.now_ns()
        self._blocked, self._mode = blocked, mode
        failed = [
            f"{name}: {reply.output}"
            for name, reply in zip(self._nodes, replies, strict=True)
            if reply.status
        ]
        if failed:
            raise DockerTrouble(f"iptables refused the partition's rules ({'; '.join(failed)})")
        if standing:
            self._caught += sum(links.packets(reply.output) for reply in replies)
        after = await self._probe()
        spared = [link for link in after if link not in blocked]
        lost = all(not after[link] for link in blocked)
        if not blocked:
            verified = all(after.values())
        elif spared:
            verified = lost and any(after[link] for link in spared)
        else:
            # Nothing is spared that could show that nodes still hear at all: what they heard before has to do.
            verified = lost and any(before.values())
        fired = None
        if not blocked:
            fired = max(0, self._caught - self._probed)
            self._caught = self._probed = 0
        return Evidence(
            verified=verified,
            mechanism=f"{links.MECHANISM}, {mode}" if blocked else links.MECHANISM,
            injected_ns=injected_ns,
            verified_ns=self.now_ns(),
            before=links.summary(before),
            after=links.summary(after) | {"applied_us": applied_ns // 1000},
            fired=fired,
        )

    async def _probe(self) -> dict[Link, bool]:
        assert self._reachability is not None, "the world has not started"
        carried, sent = await self._reachability.probe(self._blocked)
        # A rejected datagram is answered, and that answer may run into the opposite rule.
        hits = 2 if self._mode == "reject" else 1
        self._probed += sum(hits * count for link, count in sent.items() if link in self._blocked)
        return carried

    async def _kill(self, nodes: list[_Node]) -> Evidence:
        before = await self._states(nodes)
        await _all(self._sh(node).run(f"kill -KILL {node.pid} 2>/dev/null; true") for node in nodes)
        injected_ns = self.now_ns()
        after = await self._await_states(nodes, lambda state: state == "gone")
        refused = await _all(self._refuses(node) for node in nodes)
        gone = all(state == "gone" for state in after.values()) and all(refused)
        return Evidence(
            verified=gone and any(state != "gone" for state in before.values()),
            mechanism="SIGKILL to the store's process",
            injected_ns=injected_ns,
            verified_ns=self.now_ns(),
            before=dict(before),
            after={
                node.name: f"{after[node.name]}, port {'refuses' if closed else 'still open'}"
                for node, closed in zip(nodes, refused, strict=True)
            },
        )

    async def _restart(self, nodes: list[_Node]) -> Evidence:
        before = await self._states(nodes)
        dead = [node for node in nodes if before[node.name] == "gone"]
        await _all(self._launch(node) for node in dead)
        injected_ns = self.now_ns()
        answered = await _all(self._answers(node, RESTART_S) for node in dead)
        after: dict[str, object] = dict(before)
        after |= {
            node.name: "answers" if came else f"does not answer; {self._last_words(node)}"
            for node, came in zip(dead, answered, strict=True)
        }
        return Evidence(
            verified=all(answered),
            mechanism="the store's process started anew on the same directory",
            injected_ns=injected_ns,
            verified_ns=self.now_ns(),
            before=dict(before),
            after=after,
        )

    async def _signal(self, nodes: list[_Node], name: str, *, stopped: bool) -> Evidence:
        """SIGSTOP or SIGCONT, and what /proc says of the processes afterwards."""
        before = await self._states(nodes)
        alive = [node for node in nodes if before[node.name] != "gone"]
        await _all(self._sh(node).run(f"kill -{name} {node.pid}") for node in alive)
        injected_ns = self.now_ns()
        after = await self._await_states(alive, lambda state: (state == "stopped") is stopped)
        return Evidence(
            # A dead process can be continued as little as it needs to be.
            verified=all((state == "stopped") is stopped for state in after.values())
            and (bool(alive) or not stopped),
            mechanism=f"SIG{name} to the store's process",
            injected_ns=injected_ns,
            verified_ns=self.now_ns(),
            before=dict(before),
            after=dict(after),
        )

    # One node's process

    def _sh(self, node: _Node) -> Shell:
        assert node.shell is not None, f"{node.name} has not started"
        return node.shell

    async def _launch(self, node: _Node) -> None:
        reply = await self._sh(node).run(LAUNCH)
        if reply.status or not reply.output.strip().isdigit():
            raise NotReady(f"{node.name} could not be launched: {reply.output.strip()}")
        node.pid = int(reply.output)
        node.born = (await self._stat(node))[1]

    async def _stat(self, node: _Node) -> tuple[str, str]:
        """(state letter, start time) of the process with the node's PID; empty when there is none."""
        reply = await self._sh(node).run(f"cat /proc/{node.pid}/stat 2>/dev/null")
        # The command in parentheses may hold anything: fields are counted from its end (proc(5)).
        fields = reply.output.rpartition(")")[2].split()
        return (fields[0], fields[19]) if len(fields) > 19 else ("", "")

    async def _state(self, node: _Node) -> str:
        letter, born = await self._stat(node)
        # A zombie is not gone: its main thread has ended, but the others may still hold the port and the files.
        if not letter or born != node.born:
            return "gone"
        return "stopped" if letter in "Tt" else "runs"

    async def _states(self, nodes: list[_Node]) -> dict[str, str]:
        states = await _all(self._state(node) for node in nodes)
        return {node.name: state for node, state in zip(nodes, states, strict=True)}

    async def _await_states(self, nodes: list[_Node], wanted: Callable[[str], bool]) -> dict[str, str]:
        """The states once all are as wanted, or as they are when time is up."""
        deadline = time.monotonic() + STATE_S
        while True:
            states = await self._states(nodes)
            if all(wanted(state) for state in states.values()) or time.monotonic() > deadline:
                return states
            await asyncio.sleep(POLL_S / 5)

    async def _answers(self, node: _Node, limit_s: float) -> bool:
        """Whether GET /ping is answered within the limit; gives up early when the process ends."""
        deadline = time.monotonic() + limit_s
        with contextlib.closing(HttpTransport(node.address, HTTP_PORT)) as asking:
            while time.monotonic() < deadline:
                try:
                    if (await asking.request(PING, PING_TIMEOUT_NS)).split(b" ", 2)[1] == b"200":
                        return True
                except (Refused, Silence):
                    pass
                if await self._state(node) == "gone":
                    return False
                await asyncio.sleep(POLL_S)
        return False

    async def _refuses(self, node: _Node) -> bool:
        with contextlib.closing(HttpTransport(node.address, HTTP_PORT)) as asking:
            try:
                await asking.request(PING, PING_TIMEOUT_NS)
            except Refused:
                return True
            except Silence:
                return False
        return False

    def _last_words(self, node: _Node) -> str:
        lines = self.logs()[node.name].strip().splitlines()
        return f"its log ends: {lines[-1]}" if lines else "its log is empty"


async def _all(awaitables: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All at the same time; the first error cancels the others and is raised as it is, not in a group."""
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _free_subnets() -> Iterator[ipaddress.IPv4Network]:
    """Private /24s that no route of this machine overlaps, from a random place on so that parallel runs spread."""
    taken = list(_routes(Path("/proc/net/route").read_text()))
    for area in ("10.213.0.0/16", "172.31.0.0/16", "192.168.0.0/16"):
        subnets = list(ipaddress.IPv4Network(area).subnets(new_prefix=24))
        first = secrets.randbelow(len(subnets))
        for subnet in subnets[first:] + subnets[:first]:
            if not any(subnet.overlaps(route) for route in taken):
                yield subnet


def _routes(table: str) -> Iterator[ipaddress.IPv4Network]:
    """The networks that /proc/net/route names, but for the default."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        # Addresses are in host byte order there: the bytes of the hexadecimal number are reversed on little-endian.
        address, mask = (int.from_bytes(bytes.fromhex(fields[index]), "little") for index in (1, 7))
        if mask:
            yield ipaddress.IPv4Network((address, bin(mask).count("1")))
