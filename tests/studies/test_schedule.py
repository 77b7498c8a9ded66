"""Which cell comes next."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairmedfm_monai.studies import schedule as scheduling
from fairmedfm_monai.studies.execute import Outcome
from fairmedfm_monai.studies.schedule import Schedule, seconds_left
from tests.studies.study_cells import planned

HERE = Path("data")


def test_cells_wait_for_their_base() -> None:
    base = planned(HERE)
    after = planned(HERE, label="after", base=base.cell.key)
    last = planned(HERE, label="last", base=after.cell.key)
    schedule = Schedule([base, after, last])
    for cell in (base, after, last):
        assert schedule.next() is cell
        assert schedule.next() is None
        schedule.end(Outcome(cell.cell.key, "done"))
    assert schedule.done == {cell.cell.key for cell in (base, after, last)}


def test_a_failed_base_takes_along_what_builds_on_it_and_nothing_else() -> None:
    base, other = planned(HERE), planned(HERE, seed=1)
    after = planned(HERE, label="after", base=base.cell.key)
    last = planned(HERE, label="last", base=after.cell.key)
    schedule = Schedule([base, after, last, other])
    schedule.next()
    schedule.end(Outcome(base.cell.key, "failed", message="no"))
    assert schedule.lost == {
        after.cell.key: f"base not ready: {base.cell.key} (failed)",
        last.cell.key: f"base not ready: {after.cell.key}",
    }
    assert schedule.next() is other
    assert schedule.total == 4


@pytest.mark.parametrize(("status", "runs"), [("done", True), ("failed", True), ("no data", False)])
def test_the_status_of_the_base_in_the_plan_counts(status: str, runs: bool) -> None:
    base = planned(HERE, status=status)
    after = planned(HERE, label="after", base=base.cell.key)
    assert (after.cell.key not in Schedule([base, after]).lost) == runs


def test_a_busy_cell_comes_again_after_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = planned(HERE), planned(HERE, seed=1)
    schedule = Schedule([first, second])
    assert schedule.next() is first
    schedule.end(Outcome(first.cell.key, "busy"))
    assert schedule.next() is second
    assert schedule.next() is None
    now = scheduling.time.monotonic()
    monkeypatch.setattr(scheduling.time, "monotonic", lambda: now + scheduling.BUSY_PAUSE)
    assert schedule.next() is first


def test_a_dataset_that_nobody_encodes_comes_before_one_that_somebody_does() -> None:
    first, same, other = planned(HERE), planned(HERE, seed=1), planned(Path("elsewhere"), dataset="other")
    schedule = Schedule([first, same, other])
    assert [schedule.next() for _ in range(3)] == [first, other, same]


def test_time_left_is_that_of_all_cells_or_of_the_longest() -> None:
    cells = [planned(HERE, seed=seed) for seed in range(4)]
    assert seconds_left(cells, pace=2.0, jobs=2) == 20.0
    assert seconds_left(cells, pace=2.0, jobs=100) == 10.0
    assert seconds_left([], pace=2.0, jobs=1) == 0.0
