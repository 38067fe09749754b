"""What people see: results on standard output, all else on standard error, and how a run is getting on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TextIO

PLAIN_SECONDS = 5.0
"""How often a plain progress line is written where no terminal can redraw one."""

LIVE_SECONDS = 0.1

_CODES = {"red": 31, "green": 32, "yellow": 33, "bold": 1, "dim": 2}
COLOURS = {"valid": "green", "invalid": "red", "unknown": "yellow", "harness-error": "red"}


def out(text: str = "") -> None:
    """A result."""
    try:
        print(text, file=sys.stdout, flush=True)
    except BrokenPipeError:
        # Whoever read has seen enough, but the exit code is still to come: what follows goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(text: str) -> None:
    """Everything that is not a result."""
    print(text, file=sys.stderr, flush=True)


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """Colours the text where the stream is a terminal and NO_COLOR is not set (https://no-color.org)."""
    target: TextIO = stream or sys.stdout
    if os.environ.get("NO_COLOR") or not target.isatty() or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def verdict(word: str) -> str:
    """A verdict as a word that stands out."""
    return paint(word.upper(), COLOURS.get(word, "bold"))


def headline(word: str, sentence: str) -> str:
    """A verdict and why, without saying the verdict twice."""
    return f"{verdict(word)}  {sentence.removeprefix(f'{word}: ')}"


@contextmanager
def line() -> Generator[Callable[[Callable[[], str]], None]]:
    """Yields a function that shows one line in the place of the last. It is told how to make the line, and does so
    only when one is due: rich redraws it on a terminal, elsewhere a plain line is written every few seconds."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
            yield _every(
                LIVE_SECONDS,
                lambda text: live.update(Text(text, overflow="ellipsis", no_wrap=True), refresh=True),
            )
    else:
        yield _every(PLAIN_SECONDS, note)


def _every(seconds: float, show: Callable[[str], None]) -> Callable[[Callable[[], str]], None]:
    last = time.monotonic()

    def maybe(make: Callable[[], str]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= seconds:
            last = now
            show(make())

    return maybe
