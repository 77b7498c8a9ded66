"""Subgroup evidence from a MONAI evaluator: rows per case, gathered over ranks, evaluated at the end of an epoch."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from ignite.engine import Engine, Events

from fairmedfm_monai.fairness.label_mean import DERIVED
from fairmedfm_monai.fairness.predictions import evaluate_predictions
from fairmedfm_monai.fairness.surface import TOLERANCE_MM

from . import records, selection
from .evaluation import Settings, predictions_meta, write_evaluation
from .masks import MASK_COLUMNS, check_derived, segmentation_values
from .output import free_output_dir
from .prompt_log import prompts_of, write_prompts
from .slice_table import slice_rows, write_slices

if TYPE_CHECKING:
    from fairmedfm_monai.data.dataset import DatasetInfo
    from fairmedfm_monai.fairness.report import FairnessReport

logger = logging.getLogger(__name__)


class FairnessHandler:
    """Collects what an evaluator predicts for every case and tells how well each patient group is served.

    Sits on all ranks, before CheckpointSaver, tracking and StatsHandler. Reads ``engine.state.batch`` (the decollated
    case dicts) and ``engine.state.output`` (``pred`` and ``label``) and leaves in ``engine.state``:

    * ``metrics``: flat ``{"val/auc": ..., "val/sex/group/female/auc": ...}``, and ``selection`` with ``select_by``;
    * ``failed_cases``: ``"<case_id>: <reason>"`` of every case that could not be used;
    * ``output_dir``: where the files of the full evaluation are.

    Without ``output_dir`` (validation during training) only fast analytic numbers are made; with it the full report.

    Args:
        dataset: the loaded dataset; gives classes or labels, attributes with their groups, and the identity of cases.
        prompts: prompt kinds of a segmentation in channel order (channel = kind x labels + label); None = no prompts.
        output_dir: folder for the report; a finished run in it is never overwritten, the next free
            ``<output_dir>-NN`` is taken. None = no files.
        operating_point: threshold of binary decisions; None = from the validation split.
        n_bootstrap: bootstrap replicates of the full evaluation.
        seed: of bootstrap and permutations.
        select_by: name of the metric that becomes ``selection``, e.g. ``val/auc`` or
            ``val/sex/disparity/worst/auc``. Metrics of which less is better change their sign, so that the largest
            ``selection`` is the best; an undefined value is ``-inf``. Of several names (a list, or text with commas)
            the best has the smallest distance to the optimum and is on their Pareto front.
        log_cases: keep real case ids in ``predictions.parquet`` and let a copy with hashed ids be tracked. Without it
            ids on disk are hashes (the salt stays in the package's home folder) and no case-level file is tracked.
        stamps: sentences that every output carries, e.g. on random weights; empty ones are left out.
        split: split of cases that name none, and the splits that ``select_by`` may name (text or list).
        axis: spatial axis along which a 2D model went through volumes, for the filled boxes; None = one 3D box; of
            ``vote`` (all three axes) the last one is taken.
        derived_labels: unions of labels that are scored beside the labels: name -> labels. They are no part of the mean
            over labels.
        nsd_tolerance: tolerance of the surface Dice in mm; in pixels where images have no spacing.
        slice_table: also write ``slices.csv``, the pool of all slices that a published protocol reports.
        overwrite: write to ``output_dir`` even when it holds a run.
        title: of the report; empty = from tags and dataset.
        tags: what the model is (``fm``, ``usage``, ``variant``, ``weights``, ...), shown in report and ``run.json``.
        files: files to record by SHA-256, e.g. the checkpoint; those that do not exist are skipped.

    Raises:
        ValueError: when ``select_by`` does not exist; the message lists the valid names. A union of labels that there
            are not.
    """

    def __init__(
        self,
        dataset: DatasetInfo,
        *,
        prompts: Sequence[str] | None = None,
        output_dir: str | None = None,
        operating_point: float | Mapping[str, float] | None = None,
        n_bootstrap: int = 1000,
        seed: int = 0,
        select_by: str | Sequence[str] | None = None,
        log_cases: bool = False,
        stamps: Sequence[str] = (),
        split: str | Sequence[str] | None = None,
        axis: int | str | None = -1,
        derived_labels: Mapping[str, Sequence[str]] | None = None,
        nsd_tolerance: float = TOLERANCE_MM,
        slice_table: bool = False,
        overwrite: bool = False,
        title: str = "",
        tags: Mapping[str, Any] | None = None,
        files: Sequence[str] = (),
    ) -> None:
        self.dataset = dataset
        self.prompts = list(prompts or [""])
        self.output_dir = output_dir
        self.select_by = [] if select_by is None else selection.named(select_by)
        self.log_cases = log_cases
        self.axis = -1 if isinstance(axis, str) else axis
        self.derived_labels = dict(derived_labels or {})
        check_derived(self.derived_labels, dataset.labels)
        self.nsd_tolerance = nsd_tolerance
        self.slice_table = slice_table
        self.overwrite = overwrite
        self.attributes = list(dataset.attributes)
        self.splits = (
            [split] if isinstance(split, str) else list(split or (["val"] if output_dir is None else ["test"]))
        )
        stamps = [stamp for stamp in stamps if stamp]
        self.meta = predictions_meta(dataset, prompts or [], stamps)
        self.settings = Settings(operating_point, n_bootstrap, seed, stamps, title, dict(tags or {}), list(files))
        self.rows: list[records.Row] = []
        self.slices: list[records.Row] = []
        self.prompt_rows: list[records.Row] = []
        self._keys: list[str] = []
        self._looked = False
        selection.check_names(self.select_by, dataset, prompts=self.prompts, splits=self.splits)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def epoch_started(self, engine: Engine) -> None:
        """Forget the last epoch."""
        self.rows, self.slices, self.prompt_rows = [], [], []
        engine.state.failed_cases = []

    def iteration_completed(self, engine: Engine) -> None:
        """Turn the batch and its predictions into rows."""
        for case, output in zip(engine.state.batch, engine.state.output, strict=True):
            row = records.case_row(case, self.attributes, self.splits[-1])
            if row["failed"]:
                self.rows += self._for_all_masks(records.failed_row(row, self.dataset, self.attributes))
                continue
            self.rows += self._scored(row, output)
            if self.output_dir is not None:
                self.prompt_rows += prompts_of(case, row["case_id"])
            if self.slice_table:
                parts = slice_rows(output, self.dataset.labels, self.prompts, -1 if self.axis is None else self.axis)
                self.slices += [row | part for part in parts]

    def epoch_completed(self, engine: Engine) -> None:
        """Gather all ranks' rows, evaluate, publish the numbers and (rank 0) write the files."""
        table = self._table(records.gather(self.rows))
        self.rows = []
        self.slices, self.prompt_rows = records.gather(self.slices), records.gather(self.prompt_rows)
        engine.state.failed_cases = failed_cases(table)
        for line in engine.state.failed_cases:
            logger.warning("case left out: %s", line)
        if self.output_dir is None:
            report = evaluate_predictions(table, self.meta, n_bootstrap=0, seed=self.settings.seed)
            metrics = report.metrics()
            self._warn_once(report, metrics)
        else:
            done = records.on_rank0(lambda: self._write(table))
            metrics, engine.state.output_dir = done
        self._publish(engine, metrics)

    def _scored(self, row: records.Row, output: Mapping[str, Any]) -> list[records.Row]:
        if self.dataset.task == "segmentation":
            rows = segmentation_values(
                output,
                self.dataset.labels,
                self.prompts,
                axis=self.axis,
                case_id=row["case_id"],
                derived=self.derived_labels,
                tolerance=self.nsd_tolerance,
            )
            return [row | values for values in rows]
        values = records.classification_values(output, self.dataset)
        scores = [value for name, value in values.items() if name == "score" or name.startswith("score_")]
        if all(map(math.isfinite, scores)):
            return [row | values]
        labels = {name: value for name, value in values.items() if not name.startswith("score")}
        return [row | labels | {"failed": "the model's scores are not finite numbers"}]

    def _for_all_masks(self, row: records.Row) -> list[records.Row]:
        if self.dataset.task != "segmentation":
            return [row]
        derived = self.derived_labels
        return [
            row | {"label": label, "prompt": kind, **({DERIVED: label in derived} if derived else {})}
            for kind in self.prompts
            for label in [*self.dataset.labels, *derived]
        ]

    def _table(self, rows: list[records.Row]) -> pd.DataFrame:
        if not rows:
            msg = "no case was evaluated: the data loader of the evaluator is empty; check `dataset_dir` and `split`"
            raise ValueError(msg)
        position = {str(case_id): index for index, case_id in enumerate(self.dataset.table["case_id"])}
        table = pd.DataFrame(records.unique_rows(rows, position))
        if self.dataset.task == "segmentation":
            return table.reindex(columns=[*table.columns, *(name for name in MASK_COLUMNS if name not in table)])
        names = [""] if len(self.dataset.classes) == 2 and not self.dataset.multi_label else self.dataset.classes
        scores = [f"score_{name}" if name else "score" for name in names]
        return table.reindex(columns=[*table.columns, *(name for name in scores if name not in table)])

    def _write(self, table: pd.DataFrame) -> tuple[dict[str, float], str]:
        from fairmedfm_monai.data.home import home

        from .privacy import private_salt

        # Asked again here: another run may have finished in this folder meanwhile.
        folder = free_output_dir(str(self.output_dir), self.overwrite)
        salt = private_salt(home())
        write_prompts(self.prompt_rows, folder, salt=salt, log_cases=self.log_cases)
        if self.slice_table:
            write_slices(self.slices, self.dataset.attributes, folder)
        report = write_evaluation(
            table,
            self.meta,
            folder,
            settings=self.settings,
            info=self.dataset,
            log_cases=self.log_cases,
            salt=salt,
        )
        logger.info("report: %s/report.html", folder)
        return report.metrics(), folder

    def _warn_once(self, report: FairnessReport, metrics: Mapping[str, float]) -> None:
        """Say at the first validation that nothing can be chosen by ``select_by``, and what is kept then."""
        if self.select_by and not self._looked and math.isinf(selection.value(self.select_by, metrics)):
            logger.warning(
                "`select_by` is undefined at the first validation (%s): until it is defined, every validation replaces "
                "the checkpoint, which is the last one then, and `patience` does not count",
                selection.why_undefined(self.select_by, report),
            )
        self._looked = True

    def _publish(self, engine: Engine, metrics: Mapping[str, float]) -> None:
        for key in self._keys:  # a value that is undefined now must not keep last epoch's number
            engine.state.metrics.pop(key, None)
        self._keys = list(metrics)
        engine.state.metrics.update(metrics)
        if self.select_by:
            engine.state.metrics[selection.KEY] = selection.value(self.select_by, metrics)


def failed_cases(table: pd.DataFrame) -> list[str]:
    """``"<case_id>: <reason>"``, once per failed case."""
    failed = table[table["failed"] != ""].drop_duplicates("case_id")
    return [f"{case_id}: {reason}" for case_id, reason in zip(failed["case_id"], failed["failed"], strict=True)]
