"""From a problem and its groupings to the rows of both tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.fairness import disparities as dis
from fairmedfm_monai.fairness.bootstrap import SCHEME
from fairmedfm_monai.fairness.estimate import GroupEstimate, Problem, estimate_group
from fairmedfm_monai.fairness.groups import Grouping, compact, overall
from fairmedfm_monai.fairness.intervals import LEVEL
from fairmedfm_monai.fairness.permutation import affordable, null_values
from fairmedfm_monai.fairness.registry import METRICS
from fairmedfm_monai.fairness.report import UNKNOWN
from fairmedfm_monai.fairness.tests import FAMILIES

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

ODDS_LEVEL = 0.975
INTERVALS = {
    "rates": "Wilson; with several cases per patient on the effective sample size",
    "auc, balanced_accuracy, f1, brier, Dice, IoU, NSD": "clustered variance (AUC: DeLong, Obuchowski), Student, logit",
    "bce and distances": "clustered variance, Student, log scale",
    "auprc, ece, ece_top_label, f1_variance, f1_sd, sensitivity_at_specificity_90, medians": (
        "percentile bootstrap of patients"
    ),
    "gap and named criteria": "all pairs at once (Sidak), each difference by MOVER from the groups' intervals",
    "equalized_odds_class_mean": "mean of the classes' intervals, which hold all at once (Bonferroni)",
    "worst, ratio, sd, skewness, es_*, dto": "range over the joint region of the groups' intervals (Sidak)",
}


@dataclass
class Sample:
    """The cases of one split, whatever the prompt or label.

    Attributes:
        groupings: attributes and intersections, codes over all n cases, failed ones included.
        patients: (n,) patient codes.
        clustered: whether patient ids were given.
        failed: (n,) cases without a usable prediction: counted, never measured.
        split: name of the split.
        n_bootstrap, n_permutations, seed: resampling; 0 leaves it out.
        percentile: percentile bootstrap intervals for all metrics.
        notes: facts found on the way.
    """

    groupings: list[Grouping]
    patients: IntArray
    clustered: bool
    failed: BoolArray
    split: str
    n_bootstrap: int
    n_permutations: int
    seed: int
    percentile: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def unit(self) -> str:
        """What intervals resample."""
        return "patient" if self.clustered else "image"

    def note(self, text: str) -> None:
        """Keep a fact for the reader, once."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass
class Tables:
    """Rows collected so far."""

    subgroups: list[dict[str, Any]] = field(default_factory=list)
    disparities: list[dict[str, Any]] = field(default_factory=list)

    def add(self, problem: Problem, sample: Sample, outcome: BoolArray, *, prompt: str = "", label: str = "") -> None:
        """Measure a problem on everyone, on every group and between groups.

        Args:
            problem: cases (n,) of the sample.
            sample: groups and patients of the same cases.
            outcome: (n,) positive cases.
            prompt: prompt kind of the rows, empty where there is none.
            label: label or class of the rows, empty for binary and macro.
        """
        key = {"split": sample.split, "prompt": prompt, "label": label}
        everyone = self._grouping(problem, sample, outcome, key, overall(sample.failed.size))
        for grouping in sample.groupings:
            estimates = self._grouping(problem, sample, outcome, key, grouping)
            named = estimates[: len(grouping.groups)]
            self._between(problem, sample, outcome, key, grouping, named, everyone[0])

    def _grouping(
        self, problem: Problem, sample: Sample, outcome: BoolArray, key: Mapping[str, str], grouping: Grouping
    ) -> list[GroupEstimate]:
        codes = list(range(len(grouping.groups))) + ([-1] if (grouping.codes < 0).any() else [])
        estimates = []
        for code in codes:
            member = grouping.codes == code
            rows = np.flatnonzero(member & ~sample.failed)
            estimate = estimate_group(
                problem,
                rows,
                patients=sample.patients,
                outcome=outcome,
                n_bootstrap=sample.n_bootstrap,
                seed=sample.seed,
                percentile=sample.percentile,
            )
            group = grouping.groups[code] if code >= 0 else UNKNOWN
            positives = int(np.count_nonzero(outcome[rows]))
            counts = {
                "unit": sample.unit,
                "n_patients": compact(sample.patients[rows])[1],
                "n_cases": rows.size,
                "n_positives": positives,
                "n_negatives": rows.size - positives,
                "n_failed": int(np.count_nonzero(member & sample.failed)),
            }
            names = {**key, "attribute": grouping.name, "group": group}
            self.subgroups += _subgroup_rows(names, counts, problem.metrics, estimate)
            estimates.append(estimate)
        return estimates

    def _between(
        self,
        problem: Problem,
        sample: Sample,
        outcome: BoolArray,
        key: Mapping[str, str],
        grouping: Grouping,
        estimates: Sequence[GroupEstimate],
        everyone: GroupEstimate,
    ) -> None:
        present = [index for index, estimate in enumerate(estimates) if estimate.n]
        null = np.empty((0, len(present), len(problem.metrics)))
        if len(present) > 1 and sample.n_permutations:
            null = shuffled_values(problem, sample, outcome, grouping, present)
        between = Between(problem.metrics, grouping, estimates, everyone, null, present)
        names = {**key, "attribute": grouping.name}
        self.disparities += [{**names, **row} for row in between.rows()]


def _subgroup_rows(
    names: Mapping[str, str], counts: Mapping[str, Any], metrics: Sequence[str], estimate: GroupEstimate
) -> list[dict[str, Any]]:
    failed = f"{counts['n_failed']} failed case(s) left out" if counts["n_failed"] else ""
    rows = []
    for index, metric in enumerate(metrics):
        reason = "; ".join(part for part in (estimate.reasons[index], failed) if part)
        low, high = estimate.ends(index)
        cell = {"value": estimate.values[index], "ci_low": low, "ci_high": high}
        rows.append({**names, **counts, "metric": metric, **cell, "reason": reason})
    return rows


def shuffled_values(
    problem: Problem, sample: Sample, outcome: BoolArray, grouping: Grouping, present: Sequence[int]
) -> FloatArray:
    """Metrics (R, len(present), M) of the groups that have a case, when groups are shuffled among patients."""
    rows = np.flatnonzero((grouping.codes >= 0) & ~sample.failed)
    position = np.full(len(grouping.groups), -1)
    position[list(present)] = np.arange(len(present))
    permutations = affordable(sample.n_permutations, rows.size, len(present))
    if permutations < sample.n_permutations:
        sample.note(f"{grouping.name}: {permutations} permutations instead of {sample.n_permutations} (data size)")
    pairs = compact(sample.patients[rows] * len(position) + grouping.codes[rows])[1]
    if compact(sample.patients[rows])[1] < pairs:
        sample.note(
            f"{grouping.name}: some patients have images in several groups; the groups are treated as independent, "
            "which makes intervals of differences somewhat too wide"
        )
    return null_values(
        problem,
        rows,
        position[grouping.codes[rows]],
        n_groups=len(present),
        patients=sample.patients,
        outcome=outcome,
        n_permutations=permutations,
        seed=sample.seed,
    )


@dataclass
class Between:
    """All disparities of one attribute.

    Attributes:
        metrics: names (M,).
        grouping: the attribute.
        estimates: per group.
        everyone: estimate over everyone.
        null: (R, len(present), M) values under shuffled groups.
        present: groups that have a case.
    """

    metrics: tuple[str, ...]
    grouping: Grouping
    estimates: Sequence[GroupEstimate]
    everyone: GroupEstimate
    null: FloatArray
    present: list[int]

    def rows(self) -> list[dict[str, Any]]:
        """One row per metric and statistic, equalised odds last."""
        rows = [row for index in range(len(self.metrics)) for row in self._of_metric(index)]
        if {"sensitivity", "specificity"} <= set(self.metrics):
            rows += [disparity_row(dis.ODDS_METRIC, name, cell) for name, cell in self._odds().items()]
        return rows

    def _usable(self, indices: Sequence[int]) -> tuple[list[int], str]:
        """Groups in which all of some metrics are defined, and a sentence about the others."""
        usable, without = [], []
        for group, estimate in enumerate(self.estimates):
            undefined = [estimate.reasons[i] for i in indices if not np.isfinite(estimate.values[i])]
            if undefined:
                without.append(f"{self.grouping.groups[group]} ({undefined[0]})")
            else:
                usable.append(group)
        return usable, f"without {', '.join(without)}" if without else ""

    def _unmeasured(self, usable: Sequence[int]) -> bool:
        """Whether a group has cases (failed ones too) but no value; one without any case is no group of this split."""
        members = np.bincount(self.grouping.codes[self.grouping.codes >= 0], minlength=len(self.grouping.groups))
        return bool(np.delete(members, list(usable)).any())

    def _region(self, index: int, usable: Sequence[int], *, level: float = LEVEL) -> dis.Region | None:
        spreads = [spread for group in usable if (spread := self.estimates[group].spreads[index]) is not None]
        return dis.Region.of(spreads, level=level) if len(spreads) == len(usable) else None

    def _column(self, index: int, usable: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        """Values (G,) and null (R, G) of the usable groups; replicates with an undefined group are left out."""
        values = np.array([self.estimates[group].values[index] for group in usable])
        null = self.null[:, [self.present.index(group) for group in usable], index]
        return values, null[np.isfinite(null).all(axis=1)]

    def _of_metric(self, index: int) -> list[dict[str, Any]]:
        name = self.metrics[index]
        metric = METRICS[name]
        usable, without = self._usable([index])
        if len(usable) < 2:
            cell = dis.Disparity(reason=f"fewer than two groups can be compared; {without}".rstrip("; "))
            return [disparity_row(name, statistic, cell) for statistic in dis.statistics_of(metric)]
        values, null = self._column(index, usable)
        region = self._region(index, usable)
        rows = []
        for statistic in dis.statistics_of(metric):
            cell = dis.describe(
                statistic,
                metric,
                values=values,
                overall=float(self.everyone.values[index]),
                overall_ends=self.everyone.ends(index),
                region=region,
                null=null if metric.interval != "none" else null[:0],
            )
            if statistic == dis.DISTANCE and self._unmeasured(usable):
                cell = dis.Disparity(reason="every group with cases must have a value")
            cell.reason = "; ".join(part for part in (cell.reason, without) if part)
            rows.append(disparity_row(name, statistic, cell))
        return rows

    def _odds(self) -> dict[str, dis.Disparity]:
        indices = [self.metrics.index(name) for name in ("sensitivity", "specificity")]
        usable, without = self._usable(indices)
        if len(usable) < 2:
            reason = f"fewer than two groups can be compared; {without}".rstrip("; ")
            return {name: dis.Disparity(reason=reason) for name in dis.ODDS_STATISTICS}
        values, null = zip(*(self._column(index, usable) for index in indices), strict=True)
        # Sensitivity and specificity must come from the same shuffles; where one lost some, none are used.
        null = null if len(null[0]) == len(null[1]) else tuple(part[:0] for part in null)
        cells = dis.describe_odds(values, [self._region(index, usable, level=ODDS_LEVEL) for index in indices], null)
        for cell in cells.values():
            cell.reason = without
        return dict(cells)


def disparity_row(metric: str, statistic: str, cell: dis.Disparity) -> dict[str, Any]:
    """One row of the disparity table, but for the columns that say of what."""
    return {
        "metric": metric,
        "statistic": statistic,
        "value": cell.value,
        "ci_low": cell.low,
        "ci_high": cell.high,
        "null_low": cell.null_low,
        "null_high": cell.null_high,
        "detectable": cell.detectable,
        "p_value": cell.p_value,
        "p_adjusted": float("nan"),
        "reason": cell.reason,
    }


def permutations_for(n_bootstrap: int, tests: int) -> int:
    """Enough shuffles for the smallest p-value to survive Holm's factor at .05 with room: 40 per test."""
    return max(n_bootstrap, 40 * tests) if n_bootstrap else 0


def resampling_settings(sample: Sample) -> dict[str, Any]:
    """How the numbers of a report were made."""
    return {
        "unit": sample.unit,
        "level": LEVEL,
        "n_bootstrap": sample.n_bootstrap,
        "bootstrap": SCHEME if sample.n_bootstrap else "none",
        "n_permutations": sample.n_permutations,
        "permutation": "groups shuffled among patients within outcome class; null band = 5th to 95th percentile",
        "seed": sample.seed,
        "intervals": "percentile bootstrap of patients" if sample.percentile else INTERVALS,
        "p_adjusted": FAMILIES,
    }
