"""Class probabilities of an inference run as CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pandas as pd
from ignite.engine import Engine, Events

from .output import write_atomic
from .records import case_row

LABEL_THRESHOLD = 0.5
"""An independent label at or above this probability is predicted."""


class ProbabilityWriter:
    """Collect the probabilities of every case and write ``predictions.csv`` and ``predictions.json``.

    Columns: ``case_id``, ``image``, ``prediction`` (class of the largest probability), ``probability_<class>`` in
    [0, 1], ``failed`` (reason, empty when fine) and ``stamp`` (what must be known of the weights). With independent
    labels ``prediction`` names every class at or above 0.5: a list in the JSON file, joined by ``;`` in the table.

    Args:
        output_dir: folder of the run.
        classes: class names in the order of ``pred`` (C,).
        multi_label: whether the classes do not exclude each other.
        stamps: sentences to repeat in every row.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        classes: Sequence[str],
        multi_label: bool = False,
        stamps: Sequence[str] = (),
    ) -> None:
        self.output_dir = Path(output_dir)
        self.classes = list(classes)
        self.multi_label = multi_label
        self.stamp = "; ".join(stamps)
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self.rows = []

    def _collect(self, engine: Engine) -> None:
        for case, output in zip(engine.state.batch, engine.state.output, strict=True):
            failed = case.get("failed") or ""
            if failed:
                self.rows.append({"case_id": failed.split(": ", 1)[0], "failed": failed})
                continue
            scores = [float(value) for value in output["pred"].flatten()]
            named = {f"probability_{name}": score for name, score in zip(self.classes, scores, strict=True)}
            image = str(getattr(case["image"], "meta", {}).get("filename_or_obj", ""))
            self.rows.append(
                {
                    "case_id": case_row(case, (), "")["case_id"],
                    "image": image,
                    "prediction": self._predicted(scores),
                    **named,
                    "failed": "",
                }
            )

    def _predicted(self, scores: Sequence[float]) -> str | list[str]:
        if self.multi_label:
            return [name for name, score in zip(self.classes, scores, strict=True) if score >= LABEL_THRESHOLD]
        return self.classes[max(range(len(scores)), key=scores.__getitem__)]

    def _write(self, engine: Engine) -> None:
        rows = (
            [row for part in idist.all_gather_object(self.rows) for row in part]
            if idist.get_world_size() > 1
            else self.rows
        )
        engine.state.failed_cases = sorted({row["failed"] for row in rows if row["failed"]})
        engine.state.output_dir = str(self.output_dir)
        if idist.get_rank() > 0:
            return
        columns = ["case_id", "image", "prediction", *(f"probability_{name}" for name in self.classes), "failed"]
        table = pd.DataFrame(rows, columns=columns).drop_duplicates("case_id").sort_values("case_id")
        table["stamp"] = self.stamp
        records = json.loads(table.to_json(orient="records"))
        table["prediction"] = table["prediction"].map(
            lambda names: ";".join(names) if isinstance(names, list) else names
        )
        write_atomic(self.output_dir / "predictions.csv", lambda path: table.to_csv(path, index=False))
        content = json.dumps({"classes": self.classes, "stamp": self.stamp, "cases": records}, indent=4)
        write_atomic(self.output_dir / "predictions.json", lambda path: path.write_text(content, encoding="utf-8"))
