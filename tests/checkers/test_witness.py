"""A witness as people see it: lines in a terminal, a graph, and where a picture puts each operation."""

from checkers.convergence import Convergence
from checkers.lost_writes import LostWrites
from checkers.verdict import Edge
from checkers.witness import MEANING, OPERATIONS_MAX, anomaly, graph, layout, lines
from history.header import Header
from history.text import parse

ROLLED_BACK = parse("""
    0 invoke put 1 key=x context=[] node=n1
    0 ok     put 1 key=x returned=[1] node=n1
    1 invoke put 2 key=x context=[1] node=n2
    1 ok     put 2 key=x returned=[2] node=n2
    0 invoke get key=x node=n1
    0 ok     get [2] key=x node=n1
    reader invoke get key=x node=n3 final=true
    reader ok     get [1] key=x node=n3
""")


def test_a_witness_reads_as_a_scene() -> None:
    [found] = LostWrites().check(ROLLED_BACK).anomalies
    assert (
        found.sentence
        == "put 2 of key x (event 2) was acknowledged and is lost: 1, which it had superseded, is there again"
    )
    assert lines(found, ROLLED_BACK) == [
        "     0  0@n1       put x 1 blind -> ok [1]     is visible again, though 2 had superseded it",
        "     2  1@n2       put x 2 over [1] -> ok [2]  acknowledged, so it has to stay until something covers it",
        "     4  0@n1       get x -> ok [2]             returned 2: it had taken effect",
        "     6  reader@n3  get x (final) -> ok [1]     the last look: neither 2 nor anything that covers it",
        "        2 -observed-> 6    the target is where we looked for the source's effect",
        "        2 -read-from-> 4   the target returned what the source had written",
        "        2 -superseded-> 0  the arrow's source replaced its target: it carried it in its causal context",
    ]


def test_an_arrow_is_explained_once() -> None:
    ops = parse("\n".join(f"{i} invoke get key=x" for i in range(3))).operations
    found = anomaly("a", "x", "s", [(o, "why") for o in ops], [(ops[0], "session", o) for o in ops[1:]])
    told = [
        line
        for line in lines(found, parse("\n".join(f"{i} invoke get key=x" for i in range(3))))
        if "->" in line
    ]
    assert [MEANING["session"] in line for line in told[-2:]] == [True, False]


def test_a_lost_hint_is_shown_gone_where_it_was_first_missed_and_every_write_that_is_named_is_introduced() -> (
    None
):
    history = parse(
        """
        0 invoke put 1 key=x context=[]
        0 ok     put 1 key=x
        1 invoke put 2 key=x context=[]
        1 ok     put 2 key=x
        2 invoke put 3 key=x context=[]
        2 ok     put 3 key=x
        probe invoke hints node=n3
        probe ok     hints [["n2","x",[1]],["n2","x",[2]]] node=n3
        probe invoke hints node=n3
        probe ok     hints [] node=n3
        probe invoke hints node=n3 stage=quiet
        probe ok     hints [] node=n3 stage=quiet
        probe invoke replica node=n2 stage=quiet
        probe ok     replica {"x":[3]} node=n2 stage=quiet
        """,
        Header(guarantees={"convergence": {"after": "delivery"}}),
    )
    [found] = Convergence().check(history).anomalies
    assert (found.kind, found.witness) == ("hint-lost", (0, 2, 4, 6, 8, 12))
    why = dict(zip(found.witness, found.why, strict=True))
    assert why[8] == "n3 no longer has the hint"
    assert why[2] == "another write that hints carried, likewise missing"
    assert why[4] == "what n2 holds in its place"
    assert why[12] == "after the heal n2 holds 3, which does not cover it"


def test_the_graph_has_the_operations_and_names_its_edges() -> None:
    [found] = LostWrites().check(ROLLED_BACK).anomalies
    drawn = graph(found, ROLLED_BACK)
    assert set(drawn.nodes) == {0, 2, 4, 6}
    assert drawn.nodes[2]["label"] == "put x 2 over [1] -> ok [2]"
    assert drawn.nodes[6]["process"] == "reader"
    assert {(a, b, name) for a, b, name in drawn.edges(keys=True)} == {
        (2, 6, "observed"),
        (2, 4, "read-from"),
        (2, 0, "superseded"),
    }


def test_a_picture_gives_each_process_a_lane_and_lets_time_run_to_the_right() -> None:
    [found] = LostWrites().check(ROLLED_BACK).anomalies
    picture = layout(found, ROLLED_BACK)
    assert [lane["process"] for lane in picture["lanes"]] == ["0", "1", "reader"]
    across = [node["x"] for node in picture["nodes"]]
    assert across == sorted(across)
    assert all(0 < node["x"] < 1 and 0 < node["y"] < 1 for node in picture["nodes"])
    assert picture["nodes"][0]["y"] == picture["nodes"][2]["y"]
    assert {"source": 2, "destination": 0, "name": "superseded"} in picture["edges"]


def test_beyond_eight_operations_the_least_needed_are_left_out_with_their_edges() -> None:
    history = parse("\n".join(f"{i} invoke get key=x" for i in range(12)))
    ops = history.operations
    found = anomaly(
        "many", "x", "too many", [(op, "needed") for op in reversed(ops)], [(ops[0], "session", ops[11])]
    )
    assert found.witness == tuple(range(12 - OPERATIONS_MAX, 12))
    assert found.edges == ()


def test_an_operation_needed_for_two_reasons_stands_once_with_both() -> None:
    [a, b] = parse("0 invoke get key=x\n1 invoke get key=x").operations
    found = anomaly("twice", "x", "twice", [(a, "one"), (b, "two"), (a, "three")], [(a, "session", b)] * 2)
    assert found.why == ("one; three", "two")
    assert found.edges == (Edge(0, 1, "session"),)
