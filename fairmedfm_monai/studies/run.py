"""A whole study: its cells in the order of what they build on, in several processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fairmedfm_monai.studies.execute import BUSY, FAILED, Outcome, Setting
from fairmedfm_monai.studies.jobs import LOG_FILE, job_folder
from fairmedfm_monai.studies.schedule import BUSY_PAUSE, Schedule, seconds_left
from fairmedfm_monai.studies.tracking import claim_output, close_parent, open_parent
from fairmedfm_monai.studies.workers import Workers

if TYPE_CHECKING:
    from fairmedfm_monai.studies.plan import PlannedCell
    from fairmedfm_monai.studies.spec import Study

_MINUTE = 60.0


def run_study(
    study: Study,
    plan: Sequence[PlannedCell],
    *,
    output: str | Path,
    weights: str = "pretrained",
    n_bootstrap: int = 1000,
    jobs: int = 1,
    tracking_uri: str | None = None,
) -> bool:
    """Run the cells that are ready or have failed before; print how it goes and what became of each.

    A cell that fails stops only those that build on it. Everything that counts is in the folders of the cells: after a
    kill the same call goes on, and a second call at the same time shares the work.

    Args:
        study: the study.
        plan: its cells, bases before the cells that build on them.
        output: folder for everything.
        weights: of the FMs.
        n_bootstrap: replicates for intervals.
        jobs: cells at once, each in a process of its own.
        tracking_uri: None = ``MLFLOW_TRACKING_URI``, else ``<output>/mlruns.db``; ``off`` = no tracking.

    Returns:
        Whether every such cell is done now.

    Raises:
        ValueError: `output` holds another study, or `jobs` is below 1.
        KeyboardInterrupt: after the processes were ended in order.
    """
    folder = Path(output).absolute()
    claim_output(folder, study.name)
    schedule = Schedule(plan)
    if not schedule.waiting:
        _print(_summary(schedule, folder))
        return not schedule.lost
    tracking = open_parent(folder, study.name, title=study.title, tracking_uri=tracking_uri)
    setting = Setting(output=folder, weights=weights, n_bootstrap=n_bootstrap, tracking=tracking)
    status = "KILLED"
    try:
        _Run(schedule, folder, jobs).all_cells(setting)
        status = "FAILED" if schedule.failed else "FINISHED"
    finally:
        close_parent(tracking, status)
    _print(_summary(schedule, folder))
    return not schedule.failed and not schedule.lost


class _Run:
    """One call: hands out cells and tells how it goes."""

    def __init__(self, schedule: Schedule, output: Path, jobs: int) -> None:
        self._schedule = schedule
        self._output = output
        self._jobs = jobs
        self._total = schedule.total
        self._ended = 0
        self._started = time.monotonic()
        self._planned = self._took = 0.0  # seconds of the finished cells

    def all_cells(self, setting: Setting) -> None:
        """Run until no cell is left."""
        with Workers(self._jobs, setting) as workers:
            try:
                while self._schedule.waiting or self._schedule.running:
                    while workers.free and (planned := self._schedule.next()) is not None:
                        workers.submit(planned)
                    for outcome in workers.wait(BUSY_PAUSE if self._schedule.waiting else None):
                        self._end(outcome)
            except KeyboardInterrupt:
                keys = ", ".join(self._schedule.running) or "no cell was running"
                self._say(f"interrupted: {keys}; the same command goes on from there")
                raise

    def _end(self, outcome: Outcome) -> None:
        planned = self._schedule.running[outcome.key]
        self._schedule.end(outcome)
        if outcome.status == BUSY:
            self._say(f"{outcome.key} is run by another process; asked again in {BUSY_PAUSE:.0f} s")
            return
        self._ended += 1
        self._planned += planned.seconds
        self._took += outcome.seconds
        place = f"{self._ended + len(self._schedule.lost)} of {self._total}"
        if outcome.status == FAILED:
            log = job_folder(self._output, outcome.key) / LOG_FILE
            self._say(f"{place}: FAILED {outcome.key}: {outcome.message}; see {log}")
        else:
            self._say(f"{place}: done {outcome.key} ({outcome.message or _duration(outcome.seconds)})")

    def _say(self, text: str) -> None:
        left = [*self._schedule.waiting.values(), *self._schedule.running.values()]
        rest = ""
        if left and self._planned and self._took:
            seconds = seconds_left(left, pace=self._took / self._planned, jobs=self._jobs)
            rest = f"; {len(left)} left, about {_duration(seconds)}"
        _print(f"[{time.monotonic() - self._started:5.0f} s] {text}{rest}")


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - how a command goes


def _duration(seconds: float) -> str:
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    minutes = seconds / _MINUTE
    return f"{minutes:.0f} min" if minutes < 2 * _MINUTE else f"{minutes / _MINUTE:.1f} h"


def _summary(schedule: Schedule, output: Path) -> str:
    counts = f"{len(schedule.done)} cells done, {len(schedule.failed)} failed, {len(schedule.lost)} not run"
    failed = [f"  FAILED {key}: {why} ({job_folder(output, key)})" for key, why in schedule.failed.items()]
    lost = [f"  not run {key}: {why}" for key, why in schedule.lost.items()]
    return "\n".join([counts, *failed, *lost])
