"""A bundle's evaluation with a mitigation that needs no training."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from fairmedfm_monai.fairness.predictions import read_predictions
from fairmedfm_monai.mitigation.evaluation import Evaluation
from fairmedfm_monai.mitigation.postprocess_rule import rule_class
from fairmedfm_monai.reporting.files import PREDICTIONS_FILE

from . import records

logger = logging.getLogger(__name__)

_OF_THE_REPORT = ("title", "banners", "notes", "settings", "metrics")


class MitigatedReport:
    """Mitigates the predictions that a ``FairnessHandler`` has written, and reports on them instead.

    Comes after the ``FairnessHandler`` and before the tracking, on all ranks; the work is rank 0's. The report as it
    was stands in ``before/`` of the same folder. If the mitigation fails, the unmitigated report stays as it is.

    Args:
        name: method after training; None = none, nothing happens.
        attributes: whose groups are meant, crossed; None = the first of the dataset.
        options: of the method.
        operating_point: threshold of the evaluation, or None.
        n_bootstrap: replicates for intervals.
        seed: of resampling and of random decisions.

    Raises:
        ValueError: there is no such method; lists those that there are.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        attributes: Sequence[str] | str | None = None,
        options: Mapping[str, Any] | None = None,
        operating_point: float | None = None,
        n_bootstrap: int = 1000,
        seed: int = 0,
    ) -> None:
        if name is not None:
            rule_class(name)
        self.name = name
        self.attributes = attributes.split(",") if isinstance(attributes, str) else attributes
        self.options = options
        self.settings: dict[str, Any] = {"operating_point": operating_point, "n_bootstrap": n_bootstrap, "seed": seed}

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        if self.name is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def epoch_completed(self, engine: Engine) -> None:
        """Write the report and put its numbers in the place of those before."""
        before, after = records.on_rank0(lambda: self._write(Path(engine.state.output_dir)))
        for key in before:
            engine.state.metrics.pop(key, None)
        engine.state.metrics.update(after)

    def _write(self, folder: Path) -> tuple[list[str], dict[str, float]]:
        table, meta = read_predictions(folder / PREDICTIONS_FILE)
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        about = {key: value for key, value in run.items() if key not in _OF_THE_REPORT}
        evaluation = Evaluation(PREDICTIONS_FILE, title=run["title"], about=about, **self.settings)
        done = evaluation.mitigated(
            table, meta, folder, name=str(self.name), attributes=self.attributes, options=self.options
        )
        for sentence in done.changes:
            logger.info(sentence)
        return list(run["metrics"]), done.report.metrics()
