"""The journal: a history on its way to disk, one line an event, and the careful way back."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Generator
from pathlib import Path
from typing import Protocol

import msgspec

from history.header import FORMAT, VERSION, Header
from history.history import History, Malformed
from history.op import Op

LINE_BYTES_MAX = 16 * 1024 * 1024
"""A longer first line is taken for a foreign file, before the rest is read into memory."""

_SCALARS = frozenset({type(None), str, int, float, bool})


class Sink(Protocol):
    """Where a recorder puts events: a file, or memory."""

    def append(self, op: Op) -> None: ...

    def close(self) -> None: ...


class Journal:
    """An append-only JSONL file. Every event is one `write`, unbuffered: after kill -9 of the harness it is all there.

    It is not synced: a power cut on the machine of the harness may lose the tail. An existing file is never
    overwritten (FileExistsError).
    """

    def __init__(self, path: str | Path, header: Header) -> None:
        self.path = Path(path)
        self._encode = msgspec.json.Encoder().encode_lines
        self._fd = os.open(
            self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644
        )
        self._write(self._encode([header]))

    def append(self, op: Op) -> None:
        line = self._encode([op])
        written = os.write(self._fd, line)
        if written != len(line):
            self._write(line[written:])

    def close(self) -> None:
        """Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, rest: bytes) -> None:
        # The kernel may take a part only (a signal, a disk about to be full); the next attempt tells which.
        while rest:
            rest = rest[os.write(self._fd, rest) :]


class MemoryJournal:
    """The same bytes, kept in memory: for runs that leave no folder."""

    def __init__(self, header: Header) -> None:
        self._encode = msgspec.json.Encoder().encode_lines
        self._lines = bytearray(self._encode([header]))

    def append(self, op: Op) -> None:
        self._lines += self._encode([op])

    def close(self) -> None:
        """Nothing to release; the bytes stay."""

    def bytes(self) -> bytes:
        """What `Journal` would have written by now."""
        return bytes(self._lines)


class _Kind(msgspec.Struct):
    """The two fields that tell whose file it is, without the defaults that `Header` has."""

    format: str | None = None
    version: int | None = None


_KIND = msgspec.json.Decoder(_Kind)
_HEADER = msgspec.json.Decoder(Header)
_OP = msgspec.json.Decoder(Op)

# What a decoder may raise on hostile input: its own errors, text that is no UTF-8, brackets nested too deep, and
# integers with more digits than Python converts.
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


def read(source: str | Path | bytes) -> History:
    """The history in a file, or in a journal's bytes. Raises Malformed with one sentence for whatever is not one.

    A last line that was cut off (no line break, not a whole event) is dropped and told in `History.torn`.
    """
    if isinstance(source, bytes):
        name, first, break_at = "the given bytes", source[: LINE_BYTES_MAX + 1], source.find(b"\n")
        first = source if break_at < 0 else source[: break_at + 1]
        header = _header(name, first)
        return _history(name, header, source[len(first) :])
    name = str(source)
    path = Path(source)
    try:
        if path.is_dir():
            inside = path / "history.jsonl"
            hint = f"name {inside}" if inside.is_file() else "name a history.jsonl"
            raise Malformed(f"{name}: this is a directory; {hint} instead")
        with path.open("rb") as file:
            header = _header(name, file.readline(LINE_BYTES_MAX + 1))
            return _history(name, header, file.read())
    except OSError as problem:
        raise Malformed(f"{name}: cannot be read ({problem.strerror or problem}); check the path") from None
    except ValueError as problem:  # a NUL in the path
        raise Malformed(f"{name!r}: cannot be read ({problem}); check the path") from None


def _header(name: str, line: bytes) -> Header:
    """The header, from the first line (with its line break, if it has one)."""
    if not line:
        raise Malformed(f"{name}: the file is empty; name the history.jsonl of a run")
    if line.startswith((b"\x1f\x8b", b"(\xb5/\xfd")):
        raise Malformed(f"{name}: line 1: the file is compressed; unpack it first")
    foreign = f"this is not a history written by sunder (line 0 must be a header with format {FORMAT!r})"
    remedy = "name the history.jsonl of a run"
    if len(line) > LINE_BYTES_MAX:
        raise Malformed(f"{name}: line 1: {foreign}; {remedy}")
    cut = not line.endswith(b"\n") and line.lstrip().startswith(b'{"format":"' + FORMAT.encode())
    try:
        kind = _KIND.decode(line)
    except _UNDECODABLE:
        if cut:
            raise Malformed(
                f"{name}: line 1: the file ends within the header; the run left no history"
            ) from None
        raise Malformed(f"{name}: line 1: {foreign}; {remedy}") from None
    if kind.format != FORMAT:
        raise Malformed(f"{name}: line 1: {foreign}; {remedy}")
    if kind.version != VERSION:
        raise Malformed(
            f"{name}: line 1: format version {kind.version} cannot be read, only {VERSION}; "
            "use the release of sunder that wrote the file"
        )
    try:
        return _HEADER.decode(line)
    except _UNDECODABLE as problem:
        raise Malformed(f"{name}: line 1: the header is damaged ({problem}); restore the file") from None


@contextlib.contextmanager
def _uncollected() -> Generator[None]:
    """Without garbage collection: nothing here becomes garbage, and looking for it took a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_uncollected()
def _history(name: str, header: Header, body: bytes) -> History:
    whole, torn = body, ""
    if body and not body.endswith(b"\n"):
        start = body.rfind(b"\n") + 1
        last = body[start:]
        try:
            _OP.decode(last)  # whole but for the line break: it counts
        except _UNDECODABLE:
            whole = body[:start]
            line = body.count(b"\n") + 2
            torn = f"line {line} was cut off after {len(last)} bytes and is left out"
    events = _events(name, whole)
    history = History(header, events, torn=torn)
    try:
        _ = history.operations  # pairs them now, so that nobody stumbles later
    except Malformed as problem:
        raise Malformed(f"{name}: {problem}; restore the file") from None
    return history


def _events(name: str, body: bytes) -> list[Op]:
    lines = body.count(b"\n") + (not body.endswith(b"\n") and bool(body))
    try:
        events = _OP.decode_lines(body)
    except _UNDECODABLE:
        events = _line_by_line(name, body)
    if len(events) != lines:
        events = _line_by_line(name, body)
    for position, op in enumerate(events):
        if op.index != position:
            raise Malformed(
                f"{name}: line {position + 2}: the event says index {op.index}, but it stands at {position}; "
                "a line was lost, added or moved: restore the file"
            )
        if op.key.__class__ not in _SCALARS:
            raise Malformed(
                f"{name}: line {position + 2}: a key is text or a number, not {type(op.key).__name__}; "
                "correct the line"
            )
    return events


def _line_by_line(name: str, body: bytes) -> list[Op]:
    """The slow way, which knows where it stands when something is wrong."""
    events: list[Op] = []
    for number, line in enumerate(body.removesuffix(b"\n").split(b"\n"), start=2):
        try:
            events.append(_OP.decode(line))
        except _UNDECODABLE as problem:
            told = " ".join(str(problem).split())[:200]
            raise Malformed(f"{name}: line {number}: this is no event ({told}); restore the file") from None
    return events
