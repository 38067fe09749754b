"""What goes into the log when something goes wrong: whoever can cause a line must not be able to fill the disk with them."""

from __future__ import annotations

from collections.abc import Callable

LINES_MAX = 20
WINDOW_SECONDS = 10.0


class Complaints:
    """Passes on `LINES_MAX` lines in a window of time, and says of the rest only how many they were."""

    def __init__(self, log: Callable[[str], None], now: Callable[[], float]) -> None:
        self._log = log
        self._now = now
        self._since = now()
        self._lines = 0

    def __call__(self, text: str) -> None:
        now = self._now()
        if now - self._since >= WINDOW_SECONDS:
            self.flush()
            self._since, self._lines = now, 0
        self._lines += 1
        if self._lines <= LINES_MAX:
            self._log(text)

    def flush(self) -> None:
        """Says how many lines were left out, if any were."""
        if self._lines > LINES_MAX:
            self._log(f"{self._lines - LINES_MAX} more complaints about connections were left out")
            self._lines = LINES_MAX
