"""Scenes of recording: indices, times, and brackets."""

from __future__ import annotations

import itertools

import pytest

from history.header import Header
from history.journal import MemoryJournal, read
from history.op import Op
from history.recorder import Recorder, Retired


def scene() -> tuple[Recorder, MemoryJournal]:
    journal = MemoryJournal(Header())
    clock = itertools.count(100, 10)
    return Recorder(journal, lambda: next(clock)), journal


def invoke(process: int | str, f: str) -> Op:
    return Op(process, "invoke", f, "x")


def test_every_event_gets_its_index_and_time() -> None:
    recorder, journal = scene()
    put = recorder.invoke(invoke(0, "put"))
    recorder.event(Op("nemesis", "info", "phase", value="heal"))
    recorder.complete(put.completed("ok"))
    assert [(e.index, e.time, e.type) for e in read(journal.bytes()).events] == [
        (0, 100, "invoke"),
        (1, 110, "info"),
        (2, 120, "ok"),
    ]
    assert recorder.recorded == 3


def test_requests_nest_inside_a_composite_operation() -> None:
    recorder, journal = scene()
    add = recorder.invoke(invoke(0, "add"))
    get = recorder.invoke(invoke(0, "get"))
    assert recorder.depth(0) == 2
    recorder.complete(get.completed("ok", []))
    recorder.complete(add.completed("ok"))
    outer, inner = read(journal.bytes()).operations
    assert (outer.f, inner.f, inner.parent) == ("add", "get", outer.index)


def test_info_closes_what_it_encloses() -> None:
    recorder, journal = scene()
    add = recorder.invoke(invoke(0, "add"))
    recorder.invoke(invoke(0, "put"))
    recorder.complete(add.completed("info"))
    outer, inner = read(journal.bytes()).operations
    assert outer.complete is not None
    assert inner.complete is not None
    assert (outer.type, inner.type, inner.complete.error) == ("info", "info", "left open by add")
    assert recorder.depth(0) == 0


def test_a_completion_out_of_turn_is_our_bug() -> None:
    recorder, _ = scene()
    with pytest.raises(AssertionError, match="process 0 completes 'put' but has nothing open"):
        recorder.complete(invoke(0, "put").completed("ok"))
    add = recorder.invoke(invoke(0, "add"))
    recorder.invoke(invoke(0, "get"))
    with pytest.raises(AssertionError, match="process 0 completes 'add' while 'get' is open"):
        recorder.complete(add.completed("ok"))
    with pytest.raises(AssertionError, match="has not invoked it"):
        recorder.complete(invoke(0, "put").completed("info"))


def test_an_event_may_not_close_an_operation() -> None:
    recorder, _ = scene()
    recorder.invoke(invoke("nemesis", "kill"))
    with pytest.raises(AssertionError, match="'kill' is open and would be closed"):
        recorder.event(Op("nemesis", "info", "kill"))


def test_types_that_do_not_fit_are_our_bug() -> None:
    recorder, _ = scene()
    with pytest.raises(AssertionError, match="an invocation has the type invoke, not 'ok'"):
        recorder.invoke(Op(0, "ok", "put"))
    with pytest.raises(AssertionError, match="not invoke"):
        recorder.complete(invoke(0, "put"))
    with pytest.raises(AssertionError, match="an event has the type info, not 'ok'"):
        recorder.event(Op("nemesis", "ok", "phase"))


def test_nobody_speaks_for_a_retired_process() -> None:
    recorder, journal = scene()
    recorder.invoke(invoke(3, "put"))
    recorder.retire(3)
    assert recorder.retired(3)
    with pytest.raises(Retired, match="process 3 was retired and cannot invoke 'get'"):
        recorder.invoke(invoke(3, "get"))
    with pytest.raises(Retired, match="process 3 was retired and cannot complete 'put'"):
        recorder.complete(invoke(3, "put").completed("ok"))
    assert len(read(journal.bytes())) == 1


def test_the_nemesis_and_the_probe_never_retire() -> None:
    recorder, _ = scene()
    for name in ("nemesis", "probe"):
        with pytest.raises(AssertionError, match="does not retire"):
            recorder.retire(name)
