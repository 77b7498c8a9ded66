"""One cell in this process: training, evaluation, or a method after training on the predictions of another cell."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from fairmedfm_monai.mitigation.postprocess_rule import POSTPROCESSORS
from fairmedfm_monai.reporting.files import PREDICTIONS_FILE
from fairmedfm_monai.studies.bundles import study_bundle
from fairmedfm_monai.studies.jobs import Job, job_folder, lock_file, read_done, state
from fairmedfm_monai.studies.logs import logged, note, reason
from fairmedfm_monai.studies.tracking import OFF, Tracking, child_runs

if TYPE_CHECKING:
    from fairmedfm_monai.studies.plan import PlannedCell

DONE, FAILED, BUSY = "done", "failed", "busy"


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        key: of the cell.
        status: ``done``, ``failed``, or ``busy``: another process runs it.
        seconds: that it took here.
        message: why it failed, or what else is to be told.
    """

    key: str
    status: str
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all cells of a study are run with.

    Attributes:
        output: folder of the study.
        weights: ``pretrained``, ``tiny``, ``random`` or a path.
        n_bootstrap: replicates for intervals.
        tracking: where MLflow runs go.
    """

    output: Path
    weights: str = "pretrained"
    n_bootstrap: int = 1000
    tracking: Tracking = field(default_factory=Tracking)


def execute(planned: PlannedCell, setting: Setting, *, wait: bool = True) -> Outcome:
    """Run one cell and note how it ended in its folder; what it prints goes to its log.txt.

    A cell that is done already is left alone, and one whose training was interrupted goes on with it.

    Args:
        planned: the cell.
        setting: of the study.
        wait: wait for another process that runs the same cell.

    Returns:
        The outcome; an error of the cell is one of them. Only KeyboardInterrupt passes: the cell is interrupted then.
    """
    key, started = planned.cell.key, time.monotonic()
    job = Job(job_folder(setting.output.absolute(), key), planned.settings_hash)
    lock = FileLock(lock_file(setting.output, key))
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        return Outcome(key, BUSY)
    try:
        if state(job.folder, job.hash) == "done":
            return Outcome(key, DONE, message="was done already")
        error = _Run(planned, setting, job).stages()
    finally:
        lock.release()
    return Outcome(key, FAILED if error else DONE, time.monotonic() - started, error)


class _Run:
    """The stages of one cell."""

    def __init__(self, planned: PlannedCell, setting: Setting, job: Job) -> None:
        self.cell = planned.cell
        self.dataset_dir = str(planned.dataset_dir)
        self.setting = setting
        self.job = job
        self.resumed = False

    def stages(self) -> str:
        """Run them all; returns what went wrong, empty when nothing did."""
        about = {"dataset_dir": self.dataset_dir, "weights": self.setting.weights}
        self.job.start(self.cell.to_json(), {**about, "n_bootstrap": self.setting.n_bootstrap})
        stage, seconds = "start", {}
        with logged(self.job.log), child_runs(self.setting.tracking, self.cell):
            try:
                for stage, step in self._steps().items():
                    started = time.monotonic()
                    seconds[stage] = step() or time.monotonic() - started
                self.job.finish(self._summary(seconds))
            except (Exception, SystemExit) as error:
                note(self.job.log, traceback.format_exc())
                self.job.fail(stage, reason(error))
                return f"{stage}: {reason(error)}"
        return ""

    def _steps(self) -> dict[str, Callable[[], float | None]]:
        if self.cell.mitigation in POSTPROCESSORS:
            return {"postprocess": self._postprocess}
        return {**({"train": self._train} if self.cell.trained else {}), "evaluate": self._evaluate}

    def _train(self) -> float:
        """Train unless that came to its end before; returns its seconds (of the last part when it was resumed)."""
        if self.job.trained is not None:
            note(self.job.log, "The training came to its end before.")
            return self.job.trained
        started = time.monotonic()
        resume = self._progress()
        if resume != "complete":
            self.resumed = resume is not None
            self._run_bundle("train", **self._training_overrides(), **({"resume": resume} if resume else {}))
        self.job.mark_trained(time.monotonic() - started)
        return time.monotonic() - started

    def _training_overrides(self) -> dict[str, Any]:
        cell = self.cell
        method = {
            "mitigation": cell.mitigation,
            "mitigation_attributes": list(cell.attributes) or None,
            "mitigation_options": dict(cell.options),
        }
        if cell.base is None:
            return {**method, **cell.train}
        if "start_from" not in self._train_config():
            msg = f"bundle {cell.bundle} cannot start from the model of {cell.base}: its train.json has no `start_from`"
            raise ValueError(msg)
        return {**method, "start_from": str(self._base().train_dir / "model.pt"), **cell.train}

    def _progress(self) -> str | None:
        """Path of a progress.pt to go on from, ``complete`` when nothing is left to train, None to start anew."""
        file = self.job.train_dir / "progress.pt"
        if not file.is_file():
            return None
        import torch

        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
            trainer = content["trainer"]
            patience = self.cell.train.get("patience", self._train_config().get("patience"))
            complete = trainer["iteration"] >= trainer["epoch_length"] * trainer["max_epochs"]
            complete |= patience is not None and content.get("early_stopping", {}).get("waited", 0) >= patience
        except Exception as error:  # a damaged file can fail in any way
            note(self.job.log, f"{file} cannot be read ({reason(error)}); the training starts anew.")
            file.unlink()
            return None
        if not complete:
            note(self.job.log, f"The training goes on from {file}.")
            return str(file)
        if (self.job.train_dir / "model.pt").is_file():
            return "complete"
        file.unlink()
        return None

    def _train_config(self) -> dict[str, Any]:
        file = study_bundle(self.cell.bundle, self.setting.output) / "configs" / "train.json"
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return config

    def _evaluate(self) -> None:
        from fairmedfm_monai.handlers.output import EXIT_FAILED_CASES

        own = {"output_dir": str(self.job.eval_dir), "n_bootstrap": self.setting.n_bootstrap}
        try:
            self._run_bundle("evaluate", **{**own, **self.cell.evaluate})
        except SystemExit as stop:  # everything is written; some cases could not be used
            if stop.code != EXIT_FAILED_CASES:
                raise

    def _run_bundle(self, config: str, **overrides: Any) -> None:
        from monai.bundle import run

        from fairmedfm_monai.handlers import TrackingHandler, unique_run_name

        TrackingHandler.try_again()
        bundle = study_bundle(self.cell.bundle, self.setting.output)
        tracking = self.setting.tracking
        names = {} if tracking.uri == OFF else {"experiment_name": tracking.experiment}
        run(
            config_file=str(bundle / "configs" / f"{config}.json"),
            bundle_root=str(bundle),
            ckpt_dir=str(self.job.train_dir),
            dataset_dir=self.dataset_dir,
            weights=self.setting.weights,
            variant=self.cell.catalog_variant,
            seed=self.cell.seed,
            tracking_uri=tracking.uri,
            run_name=unique_run_name(f"{self.cell.key}-{config}"),
            **names,
            **overrides,
        )

    def _base(self) -> Job:
        """The finished job of the cell that this one builds on."""
        folder = job_folder(self.setting.output.absolute(), str(self.cell.base))
        done = read_done(folder)
        if not done:
            msg = f"this cell builds on {self.cell.base}, which is not done: run that first"
            raise ValueError(msg)
        return Job(folder, done["hash"])

    def _postprocess(self) -> None:
        from fairmedfm_monai.fairness import read_predictions
        from fairmedfm_monai.mitigation.evaluation import Evaluation

        if self.cell.base is None:
            msg = f"mitigation {self.cell.mitigation!r} works on the predictions of another cell, but `base` is None"
            raise ValueError(msg)
        source = self._base().eval_dir / PREDICTIONS_FILE
        table, meta = read_predictions(source)
        given = {"operating_point": None, "n_bootstrap": self.setting.n_bootstrap, **self.cell.evaluate}
        evaluation = Evaluation(source.name, given["operating_point"], given["n_bootstrap"], self.cell.seed)
        done = evaluation.mitigated(
            table,
            meta,
            self.job.eval_dir,
            name=self.cell.mitigation,
            attributes=list(self.cell.attributes) or None,
            options=dict(self.cell.options),
        )
        note(self.job.log, "\n".join(done.changes))
        self._log_afterwards(meta.get("stamps") or [])

    def _log_afterwards(self, stamps: Sequence[str]) -> None:
        """The MLflow run of a cell that no bundle ran; a store that fails is a warning."""
        from fairmedfm_monai.handlers import log_output_dir, unique_run_name

        tracking = self.setting.tracking
        if tracking.uri == OFF:
            return
        name, tags = unique_run_name(self.cell.key), {"stage": "postprocess", "stamps": list(stamps)}
        try:
            log_output_dir(self.job.eval_dir, tracking.uri, tracking.experiment, run_name=name, tags=tags)
        except Exception as error:
            note(self.job.log, f"MLflow cannot be used ({reason(error)}); the results are in {self.job.eval_dir}.")

    def _summary(self, seconds: Mapping[str, float]) -> dict[str, Any]:
        """What done.json holds."""
        from fairmedfm_monai.fairness import read_predictions
        from fairmedfm_monai.handlers.evaluation import versions

        table, meta = read_predictions(self.job.eval_dir / PREDICTIONS_FILE)
        return {
            "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
            "resumed": self.resumed,
            "versions": versions(),
            "stamps": list(meta.get("stamps") or []),
            "failed_cases": int(table.loc[table["failed"] != "", "case_id"].nunique()),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
