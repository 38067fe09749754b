"""Alert rules over samples, as Prometheus would judge them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import alerts
from harness.alerts import BadRule, Expression, Rule
from harness.samples import Collector, Sample
from harness.sim.world import SimWorld
from nemeses.fault import Kill, Restart
from store.config import Config
from store.node import Node

SECOND = 1_000_000_000


def rule(text: str, for_seconds: int = 0) -> Rule:
    return Rule(alert="A", expr=alerts.parse(text), for_ns=for_seconds * SECOND)


def taken(series: str, *values: float | None, node: str = "n1") -> list[Sample]:
    """One value a second; None where the node does not answer."""
    return [
        Sample(i * SECOND, node, None if value is None else {series: value}) for i, value in enumerate(values)
    ]


def fired(rule: Rule, *samples: list[Sample]) -> list[tuple[dict[str, str], int, int | None]]:
    """(labels, second at which it fired, second at which it was over) of every alert."""
    merged = sorted((s for each in samples for s in each), key=lambda s: s.time)
    return [
        (a.labels, a.fired_ns // SECOND, None if a.resolved_ns is None else a.resolved_ns // SECOND)
        for a in alerts.evaluate([rule], merged)
    ]


def test_an_alert_fires_once_its_expression_has_held_for_as_long_as_it_says() -> None:
    samples = taken("m", 1, 6, 6, 1, 6, 6, 6, 6, 1)
    assert fired(rule("max(m) > 5", 2), samples) == [({}, 6, 8)]
    assert fired(rule("max(m) > 5"), samples) == [({}, 1, 3), ({}, 4, 8)]
    assert fired(rule("max(m) > 6"), samples) == []
    assert fired(rule("max(m) >= 6", 4), samples) == []


def test_an_alert_that_still_fires_at_the_end_is_not_over() -> None:
    assert fired(rule("m > 5"), taken("m", 1, 6)) == [({"instance": "n1"}, 1, None)]


def test_series_are_added_up_by_the_labels_that_the_rule_names() -> None:
    pending = 'pending{target="%s"}'
    a = taken(pending % "x", 3, 3, node="a")
    b = taken(pending % "x", 0, 3, node="b")
    c = taken(pending % "y", 5, 5, node="c")
    assert fired(rule("sum by (target) (pending) > 5"), a, b, c) == [({"target": "x"}, 1, None)]
    assert fired(rule("sum(pending) by (target) > 4"), a, b, c) == [
        ({"target": "y"}, 0, None),
        ({"target": "x"}, 1, None),
    ]
    assert fired(rule('sum(pending{target!="y"}) > 2'), a, b, c) == [({}, 0, None)]
    assert fired(rule('max(pending{target="z"}) >= 0'), a, b, c) == []


def test_a_node_that_does_not_answer_has_no_say() -> None:
    assert fired(rule("max(m) > 5", 2), taken("m", 6, 6, None, 6, 6)) == []


def test_a_series_that_its_node_no_longer_shows_is_over() -> None:
    samples = [*taken("m", 6, 6), Sample(2 * SECOND, "n1", {"other": 1})]
    assert fired(rule("max(m) > 5"), samples) == [({}, 0, 2)]


def test_a_rate_is_by_the_second_and_survives_a_restart_of_the_counter() -> None:
    samples = taken("m_total", 0, 10, 20, 30, 2, 12, 22)
    assert fired(rule("rate(m_total[2s]) > 9.9"), samples) == [
        ({"instance": "n1"}, 1, 4),
        ({"instance": "n1"}, 6, None),
    ]
    assert fired(rule("increase(m_total[10s]) > 51"), samples) == [({"instance": "n1"}, 6, None)]


@pytest.mark.parametrize(
    "text",
    [
        "max(m)",
        "m > n",
        "rate(m) > 1",
        "m[1m] > 1",
        "max(m > 1",
        "topk(3, m) > 1",
        'm{a=~"x"} > 1',
        "a / b > 1",
        "rate(m[1 fortnight]) > 1",
    ],
)
def test_what_is_not_understood_is_refused_and_not_guessed_at(text: str) -> None:
    with pytest.raises(ValueError):
        alerts.parse(text)


def test_an_expression_is_read_with_all_its_parts() -> None:
    assert alerts.parse('avg by (op, q) (increase(a_b:c{x="1", y!="2>3"}[1h30m])) <= -1.5e2') == Expression(
        metric="a_b:c",
        matchers=(("x", "=", "1"), ("y", "!=", "2>3")),
        function="increase",
        range_ns=5400 * SECOND,
        aggregate="avg",
        by=("op", "q"),
        compare="<=",
        threshold=-150.0,
    )


def test_the_rules_that_ship_are_understood_and_hold_the_thresholds_of_the_design() -> None:
    rules = {r.alert: r for r in alerts.read(alerts.shipped())}
    horizon, hints = rules["ConsistencyHorizon"].expr, rules["HintsPending"].expr
    assert (horizon.metric, horizon.compare, horizon.threshold) == (
        "dynamo_consistency_horizon_seconds",
        ">",
        300.0,
    )
    assert (hints.metric, hints.compare, hints.threshold) == ("dynamo_hinted_handoff_pending", ">", 1000.0)
    assert all(r.summary and r.labels["severity"] in ("page", "warn") for r in rules.values())


def test_a_rules_file_that_is_not_understood_says_which_alert_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("groups: [{name: g, rules: [{alert: Odd, expr: 'a / b > 1'}]}]")
    with pytest.raises(BadRule, match="Odd"):
        alerts.read(path)


def test_a_summary_names_what_it_is_about() -> None:
    named = Rule(alert="A", expr=alerts.parse("max by (op) (m) > 0"), summary="{{ $labels.op }} is slow")
    (alert,) = alerts.evaluate([named], taken('m{op="get"}', 1))
    assert alert.summary == "get is slow"


def test_alerts_fire_while_a_node_is_away_and_are_over_when_it_has_come_back() -> None:
    names = ("n1", "n2", "n3", "n4", "n5")
    world = SimWorld(
        names, 1, lambda node, runtime: Node(Config(node=node, peers=dict.fromkeys(names, "")), runtime)
    )
    samples: list[Sample] = []

    async def main() -> None:
        await world.start()
        collector = Collector(world, samples.append, 2 * SECOND)
        collector.start()
        transport = world.transport("n1", client="0")
        await world.inject(Kill(("n5",)))
        await world.sleep(4 * SECOND)
        for i in range(1_900):
            put = f"PUT /kv/b/k{i} HTTP/1.1\r\nContent-Length: 1\r\n\r\nv".encode()
            await transport.request(put, 5 * SECOND)
        await world.sleep(340 * SECOND)
        await world.inject(Restart(("n5",)))
        await world.sleep(30 * SECOND)
        collector.stop()
        await world.stop()

    world.run(main())
    found = {a.rule.alert: a for a in alerts.evaluate(alerts.read(alerts.shipped()), samples)}
    assert found["HintsPending"].labels == {"target": "n5"}
    assert 30 <= found["HintsPending"].fired_ns / SECOND < 60
    assert 290 < found["ConsistencyHorizon"].pending_ns / SECOND < 330
    assert found["ConsistencyHorizon"].fired_ns - found["ConsistencyHorizon"].pending_ns >= 30 * SECOND
    assert all(a.resolved_ns is not None and a.resolved_ns > 340 * SECOND for a in found.values())
    assert found.keys() <= {"HintsPending", "HintsGathering", "ConsistencyHorizon", "AntiEntropyLag"}
