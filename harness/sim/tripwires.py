"""Real time and real randomness, out of node code's reach while a simulation runs.

A lint rule keeps them out of the store's own files; these wires also catch what a library does on its behalf. Whoever is not
called by node code gets through: the harness may measure real time.
"""

from __future__ import annotations

import inspect
import os
import random
import secrets
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

GUARDED = ("store", "harness.mutants")
"""Packages whose code is node code."""

_WIRED: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (time, ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep")),
    (random, ("random", "randint", "randrange", "getrandbits", "choice", "shuffle", "sample", "uniform")),
    (uuid, ("uuid1", "uuid4")),
    (os, ("urandom", "getrandom")),
    (secrets, ("token_bytes", "token_hex", "token_urlsafe", "randbits", "randbelow", "choice")),
)


class Nondeterminism(AssertionError):
    """Node code asked for real time or real randomness."""


def _wire(name: str, real: Callable[..., Any], guarded: tuple[str, ...]) -> Callable[..., Any]:
    prefixes = tuple(f"{package}." for package in guarded)

    def wired(*args: Any, **options: Any) -> Any:
        frame = inspect.currentframe()
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module in guarded or module.startswith(prefixes):
                raise Nondeterminism(f"node code ({module}) called {name}: ask the Runtime instead")
            frame = frame.f_back
        return real(*args, **options)

    return wired


@contextmanager
def laid(guarded: tuple[str, ...] = GUARDED) -> Generator[None]:
    """While this stands, the wired functions raise Nondeterminism when called from within the guarded packages."""
    found = [
        (module, name, getattr(module, name))
        for module, names in _WIRED
        for name in names
        if hasattr(module, name)  # os.getrandom is Linux only
    ]
    for module, name, real in found:
        setattr(module, name, _wire(f"{module.__name__}.{name}", real, guarded))
    try:
        yield
    finally:
        for module, name, real in found:
            setattr(module, name, real)
