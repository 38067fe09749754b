"""Clients against a scripted connection: what they write down, what they write back, what they admit not to know."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from history.header import Header
from history.history import History
from history.journal import MemoryJournal, read
from history.op import Op
from history.recorder import Recorder
from workloads import body
from workloads.cart import Cart, ShoppingCart
from workloads.connection import Definite, Indefinite, Siblings
from workloads.register import Register
from workloads.sessions import Sessions
from workloads.set import Elements, GrowingSet
from workloads.workload import Options, Workload

OPTIONS = Options()


class Scripted:
    """Answers each verb with the next of its answers, and keeps what it was asked."""

    node = "n1"

    def __init__(self, *answers: Siblings | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Any, ...]] = []

    def _answer(self, *asked: Any) -> Siblings:
        self.asked.append(asked)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def get(self, key: str, *, r: int | None = None, pr: int | None = None) -> Siblings:
        return self._answer("get", key, r, pr)

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
        more = (ttl_seconds,) if ttl_seconds else ()
        return self._answer("put", key, body, *((w, pw) if w or pw else ()), *more, context)

    async def delete(
        self, key: str, *, context: str | None, w: int | None = None, pw: int | None = None
    ) -> Siblings:
        return self._answer("delete", key, *((w, pw) if w or pw else ()), context)

    def close(self) -> None:
        pass


def perform(workload: Workload, connection: Scripted, *ops: Op) -> History:
    """What one client makes of these operations, as a history."""
    sink = MemoryJournal(Header())
    recorder = Recorder(sink, lambda: 0)
    client = workload.client(connection, 0, OPTIONS)

    async def main() -> None:
        for op in ops:
            recorder.complete(await client.invoke(recorder.invoke(client.prepare(op)), recorder))

    asyncio.run(main())
    return read(sink.bytes())


def register(id: int) -> bytes:
    return body.encode(body.Body(id))


def test_a_register_writes_with_the_context_of_its_last_answer_and_says_which_ids_that_covers() -> None:
    connection = Scripted(
        Siblings((register(1),), "c1"), Siblings((register(1), register(7)), "c2"), Siblings((), "c3", True)
    )
    history = perform(
        Register(),
        connection,
        Op(0, "invoke", "put", "k", 1),
        Op(0, "invoke", "get", "k"),
        Op(0, "invoke", "delete", "k", 3),
    )
    assert [c[-1] for c in connection.asked] == [None, None, "c2"]
    put, get, delete = history.operations
    assert (put.invoke.meta, put.meta["returned"]) == ({"context": []}, [1])
    assert get.value == [1, 7]
    assert (delete.invoke.meta["context"], delete.meta["returned"]) == ([1, 7], [])


def test_a_delete_of_what_was_never_read_becomes_a_read() -> None:
    history = perform(Register(), Scripted(Siblings()), Op(0, "invoke", "delete", "k", 3))
    assert [(o.f, o.type, o.value) for o in history.operations] == [("get", "ok", [])]


def test_a_write_without_an_answer_is_info_and_a_refused_one_is_fail() -> None:
    history = perform(Register(), Scripted(Indefinite("silence")), Op(0, "invoke", "put", "k", 1))
    assert [(o.type, o.complete and o.complete.error) for o in history.operations] == [("info", "silence")]
    history = perform(Register(), Scripted(Definite("refused")), Op(0, "invoke", "put", "k", 1))
    assert [o.type for o in history.operations] == ["fail"]


def test_a_read_without_an_answer_is_fail_since_it_changed_nothing() -> None:
    history = perform(Register(), Scripted(Indefinite("silence")), Op(0, "invoke", "get", "k"))
    assert [o.type for o in history.operations] == ["fail"]


def test_a_session_writes_with_contexts_new_old_and_none_and_with_the_quorum_that_it_was_told() -> None:
    one, two = Siblings((register(1),), "c1"), Siblings((register(2),), "c2")
    connection = Scripted(one, two, Siblings(), Siblings(), Siblings())
    history = perform(
        Sessions(),
        connection,
        Op(0, "invoke", "get", "k", meta={"r": 3, "pr": 3}),
        Op(0, "invoke", "get", "k"),
        Op(0, "invoke", "put", "k", 3, meta={"w": 1, "pw": 1, "back": 1}),
        Op(0, "invoke", "put", "k", 4, meta={"back": 3}),
        Op(0, "invoke", "delete", "k", 5, meta={"w": 3, "pw": 3, "back": 2}),
    )
    assert connection.asked == [
        ("get", "k", 3, 3),
        ("get", "k", None, None),
        ("put", "k", register(3), 1, 1, "c1"),
        ("put", "k", register(4), None),
        ("delete", "k", 3, 3, "c2"),
    ]
    assert [o.invoke.meta.get("context") for o in history.operations] == [None, None, [1], [], [2]]


def test_a_final_read_asks_all_home_replicas() -> None:
    connection = Scripted(Siblings())
    perform(Register(), connection, Op(0, "invoke", "get", "k", meta={"final": True}))
    assert connection.asked == [("get", "k", 3, 3)]


def test_an_add_to_the_set_brackets_its_requests_and_unites_the_siblings() -> None:
    siblings = Siblings((body.encode(Elements(1, [1, 2])), body.encode(Elements(3, [3]))), "c")
    connection = Scripted(siblings, Siblings())
    history = perform(GrowingSet(), connection, Op(0, "invoke", "add", "set", 9))
    assert [(o.f, o.type, o.parent) for o in history.operations] == [
        ("add", "ok", None),
        ("get", "ok", 0),
        ("put", "ok", 0),
    ]
    assert history.operations[2].invoke.meta["context"] == [1, 3]
    assert msgspec.json.decode(connection.asked[1][2], type=Elements).elements == [1, 2, 3, 9]


def test_an_indefinite_put_makes_the_add_indefinite_and_a_failed_read_makes_it_fail() -> None:
    history = perform(
        GrowingSet(), Scripted(Siblings(), Indefinite("silence")), Op(0, "invoke", "add", "set", 9)
    )
    assert [o.type for o in history.operations] == ["info", "ok", "info"]
    history = perform(GrowingSet(), Scripted(Indefinite("silence")), Op(0, "invoke", "add", "set", 9))
    assert [o.type for o in history.operations] == ["fail", "fail"]


def cart(id: int, added: list[int], removed: list[int]) -> bytes:
    return body.encode(Cart(id, added, removed))


def test_what_was_removed_in_one_sibling_stays_removed_though_another_still_has_it() -> None:
    siblings = Siblings((cart(1, [1, 2], [2]), cart(2, [1, 2, 3], [])), "c")
    history = perform(ShoppingCart(), Scripted(siblings), Op(0, "invoke", "read", "cart0"))
    assert history.operations[0].value == [1, 3]


def test_a_remove_says_whether_it_saw_the_item() -> None:
    connection = Scripted(Siblings((cart(1, [1], []),), "c"), Siblings(), Siblings())
    history = perform(
        ShoppingCart(),
        connection,
        Op(0, "invoke", "remove", "cart0", 1, meta={"id": 5}),
        Op(0, "invoke", "remove", "cart0", 8, meta={"id": 6}),
    )
    outer = [o for o in history.operations if o.parent is None]
    assert [o.meta["observed"] for o in outer] == [True, False]
    assert msgspec.json.decode(connection.asked[1][2], type=Cart) == Cart(5, [1], [1])
    assert [o.f for o in history.operations if o.parent == outer[1].index] == ["get"]
