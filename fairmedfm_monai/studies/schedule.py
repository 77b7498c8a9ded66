"""Which cell comes next, and which can never come."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from fairmedfm_monai.studies.execute import BUSY, DONE, Outcome
from fairmedfm_monai.studies.plan import RUNNABLE, PlannedCell

BUSY_PAUSE = 5.0  # seconds until a cell that another process runs is asked for again


class Schedule:
    """The cells of a plan from waiting to done, failed or lost (what they build on is not done).

    Args:
        plan: bases before the cells that build on them.
    """

    def __init__(self, plan: Sequence[PlannedCell]) -> None:
        self.waiting = {planned.cell.key: planned for planned in plan if planned.status in RUNNABLE}
        self.running: dict[str, PlannedCell] = {}
        self.done = {planned.cell.key for planned in plan if planned.status == DONE}
        self.failed: dict[str, str] = {}
        self.lost: dict[str, str] = {}
        self._not_before: dict[str, float] = {}
        self._encoded: set[tuple[str, ...]] = set()
        self._lose_dependants()

    @property
    def total(self) -> int:
        """Number of cells that are not done by plan and can be."""
        return len(self.waiting) + len(self.running) + len(self.failed) + len(self.lost)

    def next(self) -> PlannedCell | None:
        """Take the next cell that can run now: first one whose images nobody is encoding for the first time."""
        now = time.monotonic()
        able = [
            planned
            for key, planned in self.waiting.items()
            if (planned.cell.base is None or planned.cell.base in self.done) and self._not_before.get(key, 0) <= now
        ]
        if not able:
            return None
        encoding = {_features(planned) for planned in self.running.values()} - self._encoded
        chosen = next((planned for planned in able if _features(planned) not in encoding), able[0])
        self.running[chosen.cell.key] = self.waiting.pop(chosen.cell.key)
        return chosen

    def end(self, outcome: Outcome) -> None:
        """Take note of how a cell ended."""
        planned = self.running.pop(outcome.key)
        if outcome.status == BUSY:
            self._not_before[outcome.key] = time.monotonic() + BUSY_PAUSE
            self.waiting[outcome.key] = planned
            return
        self._encoded.add(_features(planned))
        if outcome.status == DONE:
            self.done.add(outcome.key)
        else:
            self.failed[outcome.key] = outcome.message
            self._lose_dependants()

    def _lose_dependants(self) -> None:
        """Give up the cells whose base is neither done nor to come, and those that build on them."""
        while lost := self._orphans():
            for key in lost:
                base = self.waiting.pop(key).cell.base
                self.lost[key] = f"base not ready: {base}{' (failed)' if base in self.failed else ''}"

    def _orphans(self) -> list[str]:
        coming = {*self.waiting, *self.running, *self.done}
        return [key for key, planned in self.waiting.items() if planned.cell.base not in {None, *coming}]


def seconds_left(planned: Iterable[PlannedCell], *, pace: float, jobs: int) -> float:
    """Estimate for some cells.

    Args:
        planned: the cells.
        pace: how much longer than planned the finished ones took, as a factor.
        jobs: cells at once.
    """
    times = [each.seconds * pace for each in planned]
    return max([sum(times) / jobs, *times], default=0.0)


def _features(planned: PlannedCell) -> tuple[str, ...]:
    """What is encoded once: a dataset by an FM."""
    return str(planned.dataset_dir), planned.cell.fm, planned.cell.variant
