"""Metrics collected beside a run."""

from __future__ import annotations

from pathlib import Path

from harness import runner, samples
from harness.samples import Sample
from harness.settings import Settings

SETTINGS = Settings(
    workload="set",
    nemesis=("partition", "kill", "pause", "clock", "power"),
    time_seconds=12,
    nemesis_interval_seconds=2,
    seed=5,
)


def test_a_run_is_the_same_whether_its_metrics_are_collected_or_not(tmp_path: Path) -> None:
    with_metrics, without = runner.execute(SETTINGS, tmp_path), runner.execute(SETTINGS)
    assert with_metrics.trace == without.trace
    assert with_metrics.journal == without.journal
    taken = samples.read(tmp_path / samples.FILE)
    assert {s.node for s in taken} == {"n1", "n2", "n3", "n4", "n5"}
    assert any(s.values is None for s in taken), "no node was ever away"
    assert any(
        value > 0
        for s in taken
        for series, value in (s.values or {}).items()
        if series.startswith("dynamo_hinted_handoff_pending")
    )


def test_samples_are_read_back_as_they_were_written_and_a_line_that_was_cut_off_is_left_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / samples.FILE
    taken = [Sample(5, "n1", {'a{b="c"}': 1.5}), Sample(6, "n2", None)]
    writer = samples.Writer(path)
    for sample in taken:
        writer.take(sample)
    writer.close()
    path.write_bytes(path.read_bytes() + b'{"time":7,"no')
    assert samples.read(path) == taken
