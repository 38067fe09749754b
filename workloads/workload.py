"""What a workload is: operations to ask for, a client that asks them, final reads, and the checkers that judge the answers."""

from __future__ import annotations

from typing import Protocol

import msgspec

from history.generator import Generator
from history.op import Process
from workloads.client import Client
from workloads.connection import Connection


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a workload may be told. `rate` is operations a second over all clients; `n` the replicas of a key."""

    keys: int = 10
    rate: float = 100.0
    n: int = 3


class Workload(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def sentence(self) -> str:
        """What it asks and what that shows, for `--help` and the docs."""
        ...

    @property
    def checkers(self) -> tuple[str, ...]: ...

    def keys(self, options: Options) -> list[str]: ...

    def generator(self, options: Options) -> Generator:
        """The clients' operations, without a time limit."""
        ...

    def client(self, connection: Connection, process: Process, options: Options) -> Client: ...

    @property
    def final_f(self) -> str:
        """The operation that reads a key at last: the runner asks it of every key with `meta.final`."""
        ...
