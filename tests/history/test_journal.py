"""Scenes of writing a journal, of losing the writer, and of reading whatever is found on disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from history.header import Header
from history.history import Malformed
from history.journal import LINE_BYTES_MAX, Journal, MemoryJournal, Sink, read
from history.op import Op

law = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""No test is judged by wall time."""

HEADER = Header(name="scene", nodes=("n1", "n2"), seed=7)


def events(count: int) -> list[Op]:
    """Puts and their completions."""
    line: list[Op] = []
    for i in range(count):
        op = Op(i // 2 % 2, "invoke", "put", "clé", i // 2, node="n1", meta={"context": []}, time=i, index=i)
        line.append(op if i % 2 == 0 else msgspec.structs.replace(op, type="ok", meta={}))
    return line


def written(ops: list[Op], header: Header = HEADER) -> bytes:
    journal = MemoryJournal(header)
    for op in ops:
        journal.append(op)
    return journal.bytes()


def complaint(source: Path | bytes | str) -> str:
    with pytest.raises(Malformed) as problem:
        read(source)
    text = str(problem.value)
    assert "\n" not in text
    assert problem.value.__suppress_context__ or problem.value.__context__ is None, (
        "one sentence, no traceback of causes"
    )
    return text


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    journal: Sink = Journal(path, HEADER)
    for op in events(6):
        journal.append(op)
    journal.close()
    journal.close()
    history = read(path)
    assert history.header == HEADER
    assert list(history.events) == events(6)
    assert history.torn == ""
    assert path.read_bytes() == written(events(6))
    assert read(path.read_bytes()).events == history.events


def test_every_event_is_on_disk_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    journal = Journal(path, HEADER)
    for i, op in enumerate(events(4)):
        journal.append(op)
        assert len(read(path)) == i + 1
    journal.close()


def test_a_history_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    Journal(path, HEADER).close()
    with pytest.raises(FileExistsError):
        Journal(path, HEADER)


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.jsonl"
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, content: write(fd, bytes(content[:7])))
    journal = Journal(path, HEADER)
    for op in events(2):
        journal.append(op)
    journal.close()
    monkeypatch.undo()
    assert path.read_bytes() == written(events(2))


WRITER = """
import sys
from history.header import Header
from history.journal import Journal
from history.op import Op

journal = Journal(sys.argv[1], Header())
i = 0
while True:
    journal.append(Op(0, "invoke" if i % 2 == 0 else "ok", "put", "x", i // 2, index=i))
    i += 1
    print(i, flush=True)
"""


def test_after_kill_9_everything_that_was_appended_is_there(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        told = 0
        while told < 500:
            told = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        told = [told, *map(int, writer.stdout.read().split())][-1]
    history = read(path)
    # What it told of is there; at most the event in flight is there untold.
    assert told <= len(history) <= told + 1


def test_a_line_cut_at_any_byte_is_left_out_and_told() -> None:
    whole = written(events(3))
    start = whole[:-1].rfind(b"\n") + 1
    for end in range(start + 1, len(whole) - 1):
        history = read(whole[:end])
        assert len(history) == 2
        assert history.torn == f"line 4 was cut off after {end - start} bytes and is left out"
    assert (len(read(whole[:start])), read(whole[:start]).torn) == (2, "")
    # Without its line break the event is whole all the same.
    assert (len(read(whole[:-1])), read(whole[:-1]).torn) == (3, "")


def test_a_header_cut_at_any_byte_is_no_history() -> None:
    header = written([])
    for end in range(len(header) - 1):
        said = complaint(header[:end])
        assert "line 1" in said or "empty" in said
    assert "ends within the header" in complaint(header[:-5])
    assert len(read(header[:-1])) == 0


def test_a_missing_file_a_directory_and_an_unreadable_name_are_said(tmp_path: Path) -> None:
    assert "No such file" in complaint(tmp_path / "nothing.jsonl")
    assert "directory" in complaint(tmp_path)
    (tmp_path / "history.jsonl").write_bytes(b"")
    assert f"name {tmp_path / 'history.jsonl'} instead" in complaint(tmp_path)
    assert "cannot be read" in complaint("a\0b")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\n", "not a history written by sunder"),
        (b"\x7fELF\x02\x01\x01\x00", "not a history written by sunder"),
        (b"\x1f\x8b\x08\x00", "compressed"),
        (b"\xff\xfe\x00{", "not a history written by sunder"),
        (b"{:type :invoke, :f :read, :value nil}\n", "not a history written by sunder"),
        (b'{"process":0,"type":"invoke","f":"put"}\n', "not a history written by sunder"),
        (b'{"format":"other","version":1}\n', "not a history written by sunder"),
        (b'[{"format":"sunder-history"}]\n', "not a history written by sunder"),
        (b'{"format":"sunder-history","version":2}\n', "version 2 cannot be read, only 1"),
        (b'{"format":"sunder-history"}\n', "version None cannot be read"),
        (b'{"format":"sunder-history","version":1,"seed":"x"}\n', "header is damaged"),
        (b"[" * 100_000, "not a history written by sunder"),
        (b'{"format":' + b"9" * 10_000 + b"}", "not a history written by sunder"),
    ],
)
def test_a_foreign_file_is_named_and_the_remedy_said(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "thing"
    path.write_bytes(content)
    text = complaint(path)
    assert text.startswith(f"{path}: ")
    assert said in text
    assert said in complaint(content)


def test_a_huge_first_line_is_refused_before_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: nobody could read all of it
    assert "not a history" in complaint(path)
    assert LINE_BYTES_MAX < 1 << 30


def lines(*replaced: tuple[int, bytes]) -> bytes:
    """Four events, some of their lines (1-based, the header is line 1) replaced."""
    content = written(events(4)).splitlines()
    for number, line in replaced:
        content[number - 1] = line
    return b"\n".join(content) + b"\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lines((3, b'{"process":0,"type":"ok"')), "line 3: this is no event"),
        (lines((5, b'{"process":0,"type":"ok"')), "line 5: this is no event"),
        (lines((3, b"")), "line 3: this is no event"),
        (lines((3, b"\x00\x00\x00")), "line 3: this is no event"),
        (lines((3, b'"\xff\xfe"')), "line 3: this is no event"),
        (lines((3, b'{"process":0,"type":"ok","f":"\xff","index":1}')), "line 3: this is no event"),
        (lines((3, b'{"process":0,"type":"done","f":"put","index":1}')), "line 3: this is no event"),
        (
            lines((3, b'{"process":0,"type":"ok","f":"put","index":1,"value":' + b"[" * 9999)),
            "line 3: this is no event",
        ),
        (
            lines((3, b'{"process":0,"type":"ok","f":"put","time":' + b"9" * 9999 + b"}")),
            "line 3: this is no event",
        ),
        (
            lines((3, b'{"process":0,"type":"ok","f":"put","index":2}')),
            "line 3: the event says index 2, but it stands at 1",
        ),
        (lines((3, b'{"process":0,"type":"ok","f":"put"}')), "line 3: the event says index -1"),
        (
            lines((3, b'{"process":0,"type":"ok","f":"put","index":1,"key":["x"]}')),
            "line 3: a key is text or a number, not list",
        ),
        (
            lines((3, b'{"process":9,"type":"ok","f":"put","index":1}')),
            "process 9 completes 'put', which it has not invoked",
        ),
        (lines() + b"\n", "line 6: this is no event"),
    ],
)
def test_a_bad_line_in_the_midst_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(content)
    assert said in complaint(path)


def test_a_lost_line_is_noticed() -> None:
    content = written(events(4)).splitlines(keepends=True)
    del content[2]
    assert "line 3: the event says index 2, but it stands at 1" in complaint(b"".join(content))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@law
@given(st.lists(st.tuples(json_values, st.dictionaries(st.text(), json_values, max_size=2)), max_size=5))
def test_any_value_comes_back_as_it_went(content: list[tuple[Any, dict[str, Any]]]) -> None:
    ops = [
        Op("probe", "invoke", "look", f"k{i}", value, meta=meta, index=i)
        for i, (value, meta) in enumerate(content)
    ]
    assert list(read(written(ops)).events) == ops


@law
@given(st.binary(max_size=200), st.integers(0, 3))
def test_no_damage_raises_anything_but_malformed(junk: bytes, at: int) -> None:
    content = written(events(4)).splitlines()
    content[at] = junk
    try:
        read(b"\n".join(content))
    except Malformed as problem:
        assert str(problem)
