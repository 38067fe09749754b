"""One line of a history: an operation's invocation or its completion."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Process = int | str
"""Client processes are integers and never reused after `info`. `nemesis` and `probe` are no clients; any other name is one
that outlives `info` (the runner's `reader`)."""

NEMESIS = "nemesis"
PROBE = "probe"

Type = Literal["invoke", "ok", "fail", "info"]


class Op(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An event of a history.

    `index` is the line's number (0-based, header not counted) and the only order that checkers may use.
    `time` is nanoseconds since the run began, by the harness's monotonic clock; real histories have times
    that run backwards. `ok` certainly happened, `fail` certainly did not, `info` may take effect at any time
    after its invocation, for ever.

    The garbage collector does not look at events (`gc=False`): JSON values cannot refer back to them, and visiting
    millions again and again took half of the time to load a history.
    """

    process: Process
    type: Type
    f: str
    key: Any = None
    value: Any = None
    error: str | None = None
    node: str | None = None
    meta: dict[str, Any] = {}
    time: int = 0
    index: int = -1

    def completed(
        self, type: Literal["ok", "fail", "info"], value: Any = None, *, error: str | None = None, **meta: Any
    ) -> Op:
        """The completion of this invocation; the recorder gives it its own index and time."""
        return Op(self.process, type, self.f, self.key, value, error, self.node, meta)
