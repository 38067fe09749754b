"""The report's charts of metrics, and its table of alerts."""

from __future__ import annotations

from harness.report import metrics
from harness.report.metrics import Chart
from harness.samples import Sample

HALF = 500_000_000


def looks(node: str, *pages: dict[str, float] | None) -> list[Sample]:
    """One page every half second; None where the node does not answer."""
    return [Sample(i * HALF, node, page) for i, page in enumerate(pages)]


def chart(samples: list[Sample], title: str) -> Chart:
    samples = sorted(samples, key=lambda s: s.time)
    return next(c for c in metrics.charts(samples, metrics.fired(samples)) if c.title == title)


def values(c: Chart) -> list[list[float | None]]:
    return [line.values for line in c.lines]


def test_the_horizon_of_a_run_is_that_of_the_node_furthest_behind_and_each_node_is_shown() -> None:
    h = "dynamo_consistency_horizon_seconds"
    found = chart(
        [*looks("a", {h: 1}, {h: 5}, None), *looks("b", {h: 2}, {h: 3}, None)], "Consistency horizon"
    )
    assert values(found) == [[2, 5, None]]
    assert [(line.name, line.values) for line in found.each] == [("a", [1, 5, None]), ("b", [2, 3, None])]
    assert found.at_us == [0, 500_000, 1_000_000]


def test_hints_of_all_nodes_are_added_up_and_no_series_means_no_hints() -> None:
    def pending(n: int) -> dict[str, float]:
        return {
            'dynamo_hinted_handoff_pending{target="x"}': n,
            'dynamo_hinted_handoff_pending{target="y"}': 1,
        }

    found = chart(
        [*looks("a", {"m": 1}, pending(4), None), *looks("b", {"m": 1}, pending(2), None)], "Hints pending"
    )
    assert values(found) == [[0, 8, None]]


def test_a_rate_is_by_the_second_and_a_restarted_counter_never_falls_below_zero() -> None:
    def failed(puts: int) -> dict[str, float]:
        return {
            'dynamo_quorum_failures_total{op="put",reason="responders"}': puts,
            'dynamo_quorum_failures_total{op="put",reason="primaries"}': 0,
            'dynamo_quorum_failures_total{op="get",reason="responders"}': 0,
        }

    found = chart(looks("a", failed(0), failed(3), None, failed(2), failed(2)), "Quorum failures")
    assert values(found) == [[None, 6, None, 2, 0], [None, 0, None, 0, 0]]


def test_what_never_moved_is_not_drawn_but_horizon_and_hints_are() -> None:
    still = {"dynamo_consistency_horizon_seconds": 0.0, "dynamo_read_repairs_total": 0.0}
    assert [c.title for c in metrics.charts(looks("a", still, still), [])] == [
        "Consistency horizon",
        "Hints pending",
    ]
    assert metrics.charts([], []) == []
    assert metrics.section([], []) == ""


def test_a_long_run_keeps_the_highest_of_each_stretch() -> None:
    h = "dynamo_consistency_horizon_seconds"
    pages = [{h: 0.0} for _ in range(20_000)]
    pages[7_777] = {h: 9.0}
    found = chart(looks("a", *pages), "Consistency horizon")
    assert len(found.at_us) <= metrics.POINTS_MAX
    assert max(v for v in found.lines[0].values if v is not None) == 9.0


def test_an_alert_that_fired_stands_in_the_table_and_over_the_chart_that_it_watches() -> None:
    h = "dynamo_consistency_horizon_seconds"
    samples = looks("a", *({h: 301.0} for _ in range(70)), {h: 2.0})
    assert chart(samples, "Consistency horizon").alerts == [("ConsistencyHorizon", 30_000_000, 35_000_000)]
    table = metrics.section(samples, metrics.fired(samples))
    assert "ConsistencyHorizon" in table
    assert "a second failure may now lose data" in table
    assert "up to a look beside these" not in table
    assert "up to a look beside these" in metrics.section(samples, metrics.fired(samples), scene=True)
    calm = metrics.section(looks("a", {h: 2.0}), [])
    assert "None of the store" in calm
