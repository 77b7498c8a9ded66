"""Reports from a table of predictions, with a mitigation after training on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from fairmedfm_monai.fairness import evaluate_predictions, write_predictions
from fairmedfm_monai.fairness.report import OVERALL, FairnessReport
from fairmedfm_monai.mitigation.mitigated import mitigate_predictions
from fairmedfm_monai.mitigation.postprocess_rule import rule_class
from fairmedfm_monai.reporting import wording, write_report
from fairmedfm_monai.reporting.context import report_split
from fairmedfm_monai.reporting.files import PREDICTIONS_FILE

BEFORE = "before"
"""Folder, beside the report of mitigated predictions, with that of the predictions as they were."""


class Mitigated(NamedTuple):
    """What came of a mitigation after training.

    Attributes:
        files: that were written.
        changes: what changed, one sentence each.
        report: on the mitigated predictions.
    """

    files: list[Path]
    changes: list[str]
    report: FairnessReport


@dataclass(frozen=True)
class Evaluation:
    """How a table is evaluated.

    Attributes:
        source: file name of the table.
        operating_point: threshold, or None.
        n_bootstrap: replicates.
        seed: of resampling and of random decisions.
        title: of the report; empty = made from the dataset's name.
        about: what else is known of the run, for run.json.
    """

    source: str
    operating_point: float | None = None
    n_bootstrap: int = 1000
    seed: int = 0
    title: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    def report(self, table: pd.DataFrame, meta: Mapping[str, Any]) -> FairnessReport:
        """Evaluate the table."""
        return evaluate_predictions(
            table, meta, operating_point=self.operating_point, n_bootstrap=self.n_bootstrap, seed=self.seed
        )

    def write(
        self,
        report: FairnessReport,
        table: pd.DataFrame,
        meta: Mapping[str, Any],
        folder: Path,
        *,
        addition: str = "",
        run: Mapping[str, Any] | None = None,
    ) -> list[Path]:
        """Write the report; ``addition`` ends its title, ``run`` is added to run.json."""
        run = run or {}
        about = {**self.about, "predictions": self.source, "seed": self.seed, "n_bootstrap": self.n_bootstrap, **run}
        about["tags"] = {**self.about.get("tags", {}), **run.get("tags", {})}
        banners = [*meta.get("stamps", []), *([meta["notice"]] if meta.get("notice") else [])]
        title = self.title or f"Subgroup report: {meta.get('dataset') or Path(self.source).stem}"
        return write_report(report, folder, title=f"{title}{addition}", banners=banners, predictions=table, run=about)

    def mitigated(
        self,
        table: pd.DataFrame,
        meta: Mapping[str, Any],
        folder: Path,
        *,
        name: str,
        attributes: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Mitigated:
        """Report on the mitigated predictions, on those before, and what changed.

        Args:
            table: predictions as they are.
            meta: their description.
            folder: for the report; ``before/`` in it holds the other one.
            name: of the mitigation, see ``mitigate_predictions``.
            attributes: whose groups are meant.
            options: of the mitigation.

        Raises:
            ValueError: what the mitigation refuses, or a given operating point beside one by group.
        """
        new, described = _mitigate(table, meta, name, attributes=attributes, options=options, seed=self.seed)
        if self.operating_point is not None and described.get("threshold_columns"):
            msg = f"`operating_point` {self.operating_point} and mitigation {name!r} both set thresholds; give one"
            raise ValueError(msg)
        old = dict(meta) | {"intersections": described.get("intersections", [])}
        before, after = self.report(table, old), self.report(new, described)
        about = described["mitigation"]
        told = changes(before, after, "__".join(about["attributes"]), rule_class(name).METRICS)
        after.notes += [*told, f"the same model without mitigation: {BEFORE}/report.html"]
        by = f"{name} by {' x '.join(about['attributes'])}"
        run = {"mitigation": about, "tags": {"mitigation": by, "attribute needed at inference": "yes"}}
        written = self.write(before, table, old, folder / BEFORE, addition=", before mitigation")
        written.append(write_predictions(new, described, folder / PREDICTIONS_FILE))
        written += self.write(after, new, described, folder, addition=f", {by}", run=run)
        return Mitigated(written, told, after)


def _mitigate(
    table: pd.DataFrame, meta: Mapping[str, Any], name: str, **options: Any
) -> tuple[pd.DataFrame, dict[str, Any]]:
    given = options["options"]
    if given is not None and not isinstance(given, Mapping):
        msg = f"`mitigation_options` must be a mapping such as '{{target: 0.8}}', but got {given!r}"
        raise ValueError(msg)
    try:
        return mitigate_predictions(table, meta, name, **options)
    except ModuleNotFoundError as error:  # a package that only this method needs: a matter of the user's
        raise ValueError(str(error)) from error


def changes(before: FairnessReport, after: FairnessReport, attribute: str, metrics: Sequence[str]) -> list[str]:
    """Gap and overall value of each metric in both reports, on the split that reports tell.

    Args:
        before: report of the predictions as they were.
        after: report of the mitigated ones.
        attribute: whose gap is meant, several crossed as ``sex__age``.
        metrics: names of metrics.
    """
    split, sentences = report_split(after), []
    for metric in metrics:
        gaps = [_gap(report, split, attribute, metric) for report in (before, after)]
        values = [_overall(report, split, metric) for report in (before, after)]
        sentences.append(
            f"{wording.metric(metric).title}, {split}: gap by {wording.readable(attribute)} {gaps[0]:.3f} before and "
            f"{gaps[1]:.3f} after mitigation; everyone {values[0]:.3f} and {values[1]:.3f}"
        )
    return sentences


def _gap(report: FairnessReport, split: str, attribute: str, metric: str) -> float:
    table = report.disparities
    found = table[
        (table["split"] == split)
        & (table["label"] == "")
        & (table["attribute"] == attribute)
        & (table["metric"] == metric)
        & (table["statistic"] == "gap")
    ]
    return float(found["value"].iloc[0])


def _overall(report: FairnessReport, split: str, metric: str) -> float:
    table = report.subgroups
    found = table[
        (table["split"] == split)
        & (table["label"] == "")
        & (table["attribute"] == OVERALL)
        & (table["metric"] == metric)
    ]
    return float(found["value"].iloc[0])
