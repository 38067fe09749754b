"""What a node counts, and the page that shows it."""

from __future__ import annotations

import re

from store.metrics import RECENT, Gauges, Latencies, Metrics, expose

GAUGES = Gauges(keys=3, peers=2, peers_up=1, hints_pending={}, uptime_ns=1_500_000_000)


def samples(page: bytes) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in page.decode().splitlines() if not line.startswith("#"))


def test_quantiles_are_those_of_the_recent_requests_and_the_sum_is_of_all() -> None:
    latencies = Latencies()
    for _ in range(10):
        latencies.observe(1_000_000)
    for i in range(RECENT):
        latencies.observe(i)
    assert latencies.quantiles(0.0, 0.5, 0.999, 1.0) == [0, RECENT // 2, int(0.999 * RECENT), RECENT - 1]
    assert latencies.count == RECENT + 10
    assert latencies.sum_ns == 10_000_000 + sum(range(RECENT))


def test_without_requests_there_are_no_quantiles() -> None:
    assert Latencies().quantiles(0.5, 0.99) == [None, None]
    assert samples(expose(Metrics(), GAUGES))['dynamo_request_seconds{op="get",quantile="0.5"}'] == "NaN"


def test_the_page_shows_what_was_counted_in_base_units() -> None:
    metrics = Metrics(read_repairs=7)
    metrics.puts.observe(2_000_000)
    metrics.puts.observe(4_000_000)
    metrics.quorum_failures["put", "responders"] += 3
    shown = samples(expose(metrics, GAUGES))
    assert shown["dynamo_read_repairs_total"] == "7"
    assert shown['dynamo_request_seconds_count{op="put"}'] == "2"
    assert shown['dynamo_request_seconds{op="put",quantile="0.99"}'] == "0.004"
    assert shown['dynamo_request_seconds_sum{op="put"}'] == "0.006"
    assert shown['dynamo_quorum_failures_total{op="put",reason="responders"}'] == "3"
    assert shown["dynamo_uptime_seconds"] == "1.5"


def test_every_target_of_hints_has_a_series_and_labels_are_escaped() -> None:
    page = expose(
        Metrics(),
        Gauges(keys=0, peers=0, peers_up=0, hints_pending={"b": 5, 'q"\\\n': 1}, uptime_ns=0),
    )
    shown = samples(page)
    assert shown['dynamo_hinted_handoff_pending{target="b"}'] == "5"
    assert shown['dynamo_hinted_handoff_pending{target="q\\"\\\\\\n"}'] == "1"


def test_the_page_is_prometheus_text_with_every_family_declared_once_before_its_samples() -> None:
    metrics = Metrics()
    metrics.quorum_failures["get", "primaries"] = 1
    declared: set[str] = set()
    for line in expose(metrics, GAUGES).decode().splitlines():
        if line.startswith("# HELP "):
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in declared
            assert kind in {"counter", "gauge", "summary"}
            declared.add(name)
            continue
        sample = re.fullmatch(r'([a-z_]+)(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? (NaN|[0-9.e+-]+)', line)
        assert sample is not None, line
        assert re.sub("_(sum|count)$", "", sample[1]) in declared, line


def test_the_page_stays_small() -> None:
    assert len(samples(expose(Metrics(), GAUGES))) in range(40, 60)
