"""How long replicas took to agree after a heal, as an interval; open to the right where the next fault came first."""

from checkers.digests import after_heals
from history.header import Header
from history.history import History
from history.op import Op


class Scene:
    """Events with times in milliseconds."""

    def __init__(self) -> None:
        self.events: list[Op] = []

    def _both(
        self, process: str, f: str, ms: int, value: object, node: str | None = None, **meta: object
    ) -> None:
        self.events.append(Op(process, "invoke", f, node=node, meta=meta, time=ms * 10**6))
        self.events.append(Op(process, "ok", f, value=value, node=node, time=ms * 10**6))

    def harm(self, ms: int) -> None:
        self._both("nemesis", "kill", ms, {"verified": True}, family="kill")

    def heal(self, ms: int) -> None:
        self._both("nemesis", "restart", ms, {"verified": True}, family="kill", heal=True)

    def poll(self, ms: int, **digests: dict[str, str]) -> None:
        for node, digest in digests.items():
            self._both("probe", "digest", ms, digest, node)

    def phase(self, name: str, ms: int) -> None:
        self.events.append(Op("nemesis", "info", "phase", value=name, time=ms * 10**6))

    def measured(self) -> list[dict[str, object]]:
        return after_heals(History(Header(), self.events))


def test_agreement_came_between_the_last_disagreement_and_the_first_poll_without_one() -> None:
    scene = Scene()
    scene.poll(50, n1={"7": "aa"}, n2={"7": "bb"})
    scene.heal(100)
    scene.poll(200, n1={"7": "aa"}, n2={"7": "bb"})
    scene.poll(300, n1={"7": "bb"}, n2={"7": "bb"})
    scene.poll(400, n1={"7": "bb"}, n2={"7": "bb"})
    [measured] = scene.measured()
    assert measured == {"event": 5, "healed_by": "restart", "polls": 6, "agreed_after_ms": [100.0, 200.0]}


def test_an_agreement_that_does_not_last_does_not_count() -> None:
    scene = Scene()
    scene.heal(0)
    scene.poll(10, n1={"7": "aa"}, n2={"7": "aa"})
    scene.poll(20, n1={"7": "cc"}, n2={"7": "aa"})
    scene.poll(30, n1={"7": "cc"}, n2={"7": "cc"})
    assert scene.measured()[0]["agreed_after_ms"] == [20.0, 30.0]


def test_what_the_next_fault_interrupts_or_the_final_reads_end_is_open_to_the_right() -> None:
    scene = Scene()
    scene.heal(0)
    scene.poll(10, n1={"7": "aa"}, n2={"7": "bb"})
    scene.harm(20)
    scene.heal(30)
    scene.poll(40, n1={"7": "aa"}, n2={"7": "bb"})
    scene.phase("final", 50)
    scene.poll(60, n1={"7": "bb"}, n2={"7": "bb"})
    assert [m["agreed_after_ms"] for m in scene.measured()] == [[10.0, None], [10.0, None]]


def test_heals_one_after_the_other_are_one_heal() -> None:
    scene = Scene()
    scene.heal(0)
    scene.heal(10)
    scene.poll(20, n1={"7": "aa"}, n2={"7": "aa"})
    assert [(m["event"], m["agreed_after_ms"]) for m in scene.measured()] == [(3, [0.0, 10.0])]


def test_a_range_that_one_node_alone_reports_is_no_disagreement_and_a_silent_node_is_no_agreement() -> None:
    scene = Scene()
    scene.poll(0, n1={}, n2={})
    scene.heal(10)
    scene.poll(20, n1={"7": "aa"})
    assert scene.measured()[0]["agreed_after_ms"] == [0.0, None]
    scene.poll(30, n2={"8": "bb"})
    assert scene.measured()[0]["agreed_after_ms"] == [0.0, 20.0]


def test_without_digests_nothing_is_measured() -> None:
    scene = Scene()
    scene.heal(10)
    assert scene.measured() == []
