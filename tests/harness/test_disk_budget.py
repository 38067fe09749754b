"""Destructive faults stay within what every write can spare, unless somebody says that they need not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness import runner
from harness.settings import UsageProblem, resolve
from harness.systems import dynamo
from nemeses.fault import Rollback, Rot, Wipe


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            {"nemesis": "wipe", "w": 1},
            "the only copy of a write where w=1 is enough: raise w, or say --unrestricted",
        ),
        (
            {"nemesis": "rot", "workload": "sessions"},
            "w=1 is enough: choose another workload than sessions, or say --unrestricted",
        ),
        ({"nemesis": "rollback", "reap_after": "1s"}, "a rollback to before a reap"),
        ({"value_bytes": -1}, "value-bytes=-1 is no size of a value"),
        ({"log_segment_bytes": 3}, "log-segment-bytes=3 holds no record"),
    ],
)
def test_what_no_store_could_survive_is_refused(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageProblem, match=sentence):
        resolve(said)


def test_unrestricted_lifts_the_budget_and_with_it_the_promises() -> None:
    kept = resolve({"nemesis": "wipe", "workload": "register"})
    lifted = resolve({"nemesis": "wipe,rollback", "workload": "register", "w": 1, "unrestricted": True})
    assert dynamo.guarantees(kept)["lost_writes"] == "causal"
    assert not {"lost_writes", "resurrection", "set_full", "cart"} & dynamo.guarantees(lifted).keys()


def test_in_one_run_one_node_is_destroyed_where_two_copies_count_and_any_where_nobody_cares() -> None:
    def hit(**more: Any) -> set[str]:
        settings = resolve({"nemesis": "wipe,rollback,rot", "workload": "register", **more})
        faults = [timed.fault for timed in runner.faults_of(settings, 7)]
        return {node for fault in faults if isinstance(fault, Wipe | Rollback | Rot) for node in fault.nodes}

    assert len(hit()) == 1
    assert len(hit(w=3)) == 2
    assert len(hit(unrestricted=True)) > 2


def test_losses_of_an_unrestricted_run_are_counted_and_not_judged() -> None:
    lost = 0
    for seed in range(1, 4):
        outcome = runner.execute(
            resolve(
                {
                    "combination": "disk-lost",
                    "nemesis": "wipe",
                    "n": 1,
                    "w": 1,
                    "r": 1,
                    "read_repair": "off",
                    "anti_entropy": False,
                    "unrestricted": True,
                    "seed": seed,
                }
            )
        )
        losses = next(v for v in outcome.verdicts if v.checker == "lost_writes")
        assert not losses.judged
        lost += losses.evidence["lost_total"]
    assert lost > 0


class Wire:
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def request(self, payload: bytes, timeout_ns: int) -> bytes:
        self.sent.append(payload)
        return b"HTTP/1.1 204 No Content\r\n\r\n"

    def close(self) -> None: ...


def test_values_are_padded_to_the_size_that_was_asked_for_and_mean_the_same() -> None:
    wire = Wire()
    connection = dynamo.DynamoConnection(wire, "n1", 3_000)
    with pytest.raises(StopIteration):
        connection.put("k", b'{"id":7}').send(None)
    body = wire.sent[0].partition(b"\r\n\r\n")[2]
    assert len(body) == 3_000
    assert b"Content-Length: 3000\r\n" in wire.sent[0]
    assert msgspec.json.decode(body) == {"id": 7}
