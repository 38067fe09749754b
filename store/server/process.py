"""One node as a process: binds, recovers, serves until SIGTERM, then answers what is in flight and stops."""

from __future__ import annotations

import asyncio
import errno
import gc
import resource
import signal
import socket
from contextlib import suppress
from typing import Any

import uvloop

from store.api import traced
from store.config import Config
from store.node import Node
from store.runtime import DiskError
from store.server.clients import REFUSED_MAX, HttpConnection, HttpServer
from store.server.disk import CannotServe
from store.server.peers import Incoming
from store.server.runtime import RealRuntime

SWEEP_SECONDS = 0.5
CLOSE_SECONDS_MAX = 10.0
"""How long the disk may take for the last sync before the process ends without it."""
DESCRIPTORS_KEPT = REFUSED_MAX + 256
"""Open files that clients may not use up: refused ones, peers, the log, the loop's own."""


def _bind(host: str, port: int) -> socket.socket:
    """A socket that is bound but does not listen: clients are refused, and not kept waiting, until the node is ready."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as problem:
        raise CannotServe(
            f"cannot listen on {host}:{port}: no address is known for that name; correct `host`"
        ) from problem
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    try:
        listener.bind((host, port))
    except OSError as problem:
        listener.close()
        what = {
            errno.EADDRNOTAVAIL: "`host` must be an address of this machine",
            errno.EACCES: "choose a port that this user may use",
        }.get(problem.errno or 0, "stop what uses the port, or choose another")
        raise CannotServe(f"cannot listen on {host}:{port}: {problem.strerror}; {what}") from problem
    return listener


def _descriptors(runtime: RealRuntime, wanted: int) -> int:
    """Raises this process's limit of open files as far as it goes; how many of `wanted` clients that leaves room for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = hard - DESCRIPTORS_KEPT
    if room >= wanted:
        return wanted
    runtime.log(
        f"the system allows {hard} open files, so at most {max(room, 1)} clients, not {wanted}; raise `ulimit -n`"
    )
    return max(room, 1)


async def _serve(config: Config) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    runtime = RealRuntime(config, loop)
    loop.set_exception_handler(lambda _, context: runtime.log(_complaint(context)))
    http_socket, peer_socket = _bind(config.host, config.http_port), _bind(config.host, config.peer_port)
    node = Node(config, runtime)
    runtime.net.metrics = node.metrics
    http = HttpServer(config, node.api.handle, node.api.begin_get, node.metrics, loop, runtime.log)
    http.connections_max = _descriptors(runtime, config.http_connections_max)

    try:
        await node.start()
    except DiskError as problem:
        raise CannotServe(
            f"cannot recover from the data directory {config.directory}: {problem}; mend it, or name another in `directory`"
        ) from problem
    peer_listener = await loop.create_server(lambda: Incoming(runtime.net), sock=peer_socket, backlog=128)
    http_listener = await loop.create_server(lambda: HttpConnection(http), sock=http_socket, backlog=1024)
    # What is alive now lives as long as the node: the collector need not look at it again.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    http_port, peer_port = http_socket.getsockname()[1], peer_socket.getsockname()[1]
    runtime.log(f"listening: clients on {config.host}:{http_port}, peers on {config.host}:{peer_port}")

    while not stopping.is_set():
        now = loop.time()
        http.sweep(now)
        runtime.net.sweep(now)
        with suppress(TimeoutError):
            async with asyncio.timeout(SWEEP_SECONDS):
                await stopping.wait()

    runtime.log("stopping: answering what is in flight")
    http_listener.close()
    await http.drain()
    http.complain.flush()
    peer_listener.close()
    runtime.net.close()
    runtime.net.complain.flush()
    try:
        async with asyncio.timeout(CLOSE_SECONDS_MAX):
            await node.log.close()
    except (TimeoutError, DiskError) as problem:
        runtime.log(
            f"stopped without a closing mark, {problem or 'the disk being too slow'}: as if killed, nothing is lost"
        )
        return
    runtime.disk.close()
    runtime.log("stopped")


def _complaint(context: dict[str, Any]) -> str:
    problem = context.get("exception")
    return f"{context['message']}: {traced(problem)}" if problem else str(context["message"])


def run(config: Config) -> None:
    """Serves until SIGTERM or SIGINT, then answers what is in flight and stops. Raises CannotServe."""
    uvloop.run(_serve(config))
