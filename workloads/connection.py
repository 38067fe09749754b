"""The verbs that a system under test offers to clients, and the two kinds of error."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Definite(Exception):
    """Certainly nothing happened: refused before any effect (connection refused, 4xx). The operation is `fail`."""


class Indefinite(Exception):
    """It may have happened, or may yet: silence, a reset, any 5xx on a write. When in doubt, this one is always safe."""


class Siblings(msgspec.Struct, frozen=True):
    """What a read (or a write that asked for the body) returned: every live value, and the context that covers them.

    `values` are the stored bodies in the server's order, one per dot. `context` is opaque. `tombstone` says that
    a delete is among the versions; `truncated` that the key's clock ever lost entries.
    """

    values: tuple[bytes, ...] = ()
    context: str | None = None
    tombstone: bool = False
    truncated: bool = False


class Connection(Protocol):
    """One client's way to the system, through one node. Every verb raises Definite or Indefinite, nothing else."""

    @property
    def node(self) -> str: ...

    async def get(self, key: str, *, r: int | None = None, pr: int | None = None) -> Siblings:
        """Reads from `r` replicas, `pr` of them home replicas (None: as the system is configured)."""
        ...

    async def put(
        self,
        key: str,
        body: bytes,
        *,
        context: str | None = None,
        w: int | None = None,
        pw: int | None = None,
        ttl_seconds: int | None = None,
    ) -> Siblings:
        """Writes with the causal context of an earlier read (None: blind) and returns the siblings after the write. `w`
        and `pw` as `r` and `pr` of a read. With `ttl_seconds` the value is gone after that time."""
        ...

    async def delete(
        self, key: str, *, context: str | None, w: int | None = None, pw: int | None = None
    ) -> Siblings:
        """Removes what `context` covers (None only where the system keeps no contexts); returns what is left."""
        ...

    def close(self) -> None: ...
