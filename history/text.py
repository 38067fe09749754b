"""The tiny text form of histories, for tests and documentation: one event a line.

    process type f [value] [key=...] [node=...] [any=...]

Values are JSON without spaces between tokens; `key`, `node` and `error` are fields, every other name goes into `meta`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from history.header import Header
from history.history import History
from history.op import Op

_FIELDS = ("key", "node", "error")


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def parse(text: str, header: Header | None = None) -> History:
    """Reads the text form. Blank lines and lines that begin with `#` are skipped; times are 1 ms apart.

    >>> h = parse("0 invoke put 1 key=x context=[]")
    >>> h.events[0].key, h.events[0].value, h.events[0].meta
    ('x', 1, {'context': []})
    """
    ops: list[Op] = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        process, kind, f, *rest = words
        value: Any = None
        named: dict[str, Any] = {}
        for word in rest:
            name, equals, tail = word.partition("=")
            if equals and name.isidentifier():
                named[name] = _value(tail)
            else:
                value = _value(word)
        fields = {name: named.pop(name) for name in _FIELDS if name in named}
        ops.append(
            Op(
                int(process) if process.isdigit() else process,
                kind,  # pyright: ignore[reportArgumentType]  a wrong type shows at once in the test
                f,
                fields.get("key"),
                value,
                fields.get("error"),
                fields.get("node"),
                named,
                time=len(ops) * 1_000_000,
            )
        )
    return History(header or Header(), ops)
