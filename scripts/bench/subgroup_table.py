"""Subgroup table with 1,000 bootstrap replicates: this package against fairlearn's MetricFrame.

    python scripts/bench/subgroup_table.py [--quick]

Both compute the same six metrics (AUC, accuracy, sensitivity, specificity, PPV, selection rate) over eight uneven
groups with percentile intervals per group. fairlearn's cost per replicate is measured on a few replicates and
multiplied; such rows are marked "extrapolated". The clustered row draws patients of three images each, which fairlearn
cannot; the analytic row is what every validation epoch uses. CPU seconds of one process, one thread.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402  (threads must be set before)
import pandas as pd  # noqa: E402

from fairmedfm_monai.fairness import FairnessReport, evaluate_classification  # noqa: E402

SHARES = (0.30, 0.20, 0.15, 0.12, 0.10, 0.07, 0.04, 0.02)
REPLICATES = 1000
THRESHOLD = 0.5
METRICS = ("auc", "accuracy", "sensitivity", "specificity", "ppv", "selection_rate")
FAIRLEARN_REPLICATES = {10_000: 100, 100_000: 3, 1_000_000: 1}
"""Replicates that are really run; the rest is extrapolated."""


def data(n: int) -> pd.DataFrame:
    """Labels, scores and groups of n cases: prevalence 20 %, AUC about .856; every patient has three cases."""
    rng = np.random.default_rng(0)
    y = rng.random(n) < 0.2
    score = 1 / (1 + np.exp(-(rng.standard_normal(n) + 1.5 * y - 1)))
    patient = np.arange(n) // 3
    group = rng.choice([f"group_{i}" for i in range(len(SHARES))], n, p=SHARES)
    return pd.DataFrame({"y": y.astype(int), "score": score, "group": group, "patient": patient})


def ours(table: pd.DataFrame, *, clustered: bool = False, n_bootstrap: int = REPLICATES) -> FairnessReport:
    """The shipped evaluation, without permutations, which fairlearn does not have."""
    group = table["group"].to_numpy()
    if clustered:
        # A patient belongs to one group.
        group = group[table["patient"].to_numpy() * 3]
    return evaluate_classification(
        table["y"],
        table["score"],
        attributes={"group": group},
        patient_id=table["patient"] if clustered else np.arange(len(table)),
        operating_point=THRESHOLD,
        metrics=METRICS,
        n_bootstrap=n_bootstrap,
        n_permutations=0,
        percentile=n_bootstrap > 0,
    )


def theirs(table: pd.DataFrame, n_boot: int) -> Any:
    """Fairlearn's frame with the same metrics; percentile intervals when ``n_boot`` is positive."""
    from fairlearn import metrics as fl
    from sklearn.metrics import accuracy_score, precision_score, roc_auc_score

    def at(function: Callable[..., float]) -> Callable[..., float]:
        return lambda y, s: function(y, np.asarray(s) >= THRESHOLD)

    functions = {
        "auc": roc_auc_score,
        "accuracy": at(accuracy_score),
        "sensitivity": at(fl.true_positive_rate),
        "specificity": at(fl.true_negative_rate),
        "ppv": at(lambda y, d: precision_score(y, d, zero_division=0)),
        "selection_rate": at(fl.selection_rate),
    }
    options: dict[str, Any] = {}
    if n_boot:
        options = {"n_boot": n_boot, "ci_quantiles": [0.025, 0.975], "random_state": 0}
    return fl.MetricFrame(
        metrics=functions, y_true=table["y"], y_pred=table["score"], sensitive_features=table["group"], **options
    )


def cpu(function: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Least CPU seconds, and the result."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return min(times), result


def fairlearn_time(table: pd.DataFrame, run: int) -> tuple[float, Any]:
    """CPU seconds of 1,000 replicates from ``run`` replicates, and the frame with them."""
    base, _ = cpu(lambda: theirs(table, 0))
    total, frame = cpu(lambda: theirs(table, run))
    return base + REPLICATES * max(total - base, 0.0) / run, frame


def agreement(report: FairnessReport, frame: Any) -> tuple[float, float]:
    """Largest difference of the group values, and of the ends of the AUC intervals."""
    rows = report.subgroups[report.subgroups["attribute"] == "group"]
    values = rows.pivot_table(index="group", columns="metric", values="value")
    auc = rows[rows["metric"] == "auc"].set_index("group")
    point = float((values - frame.by_group[list(METRICS)]).abs().to_numpy().max())
    ends = [auc[name] - part["auc"] for name, part in zip(("ci_low", "ci_high"), frame.by_group_ci, strict=True)]
    return point, float(np.max(np.abs(np.array(ends, dtype=np.float64))))


def cpu_model() -> str:
    """Name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def run_size(n: int, run: int, repeats: int) -> None:
    """Print the rows of one size."""
    table = data(n)
    ours(table.head(1000))  # imports and caches
    plain, report = cpu(lambda: ours(table), repeats)
    clustered, _ = cpu(lambda: ours(table, clustered=True), repeats)
    analytic, _ = cpu(lambda: ours(table, clustered=True, n_bootstrap=0), repeats)
    seconds, frame = fairlearn_time(table, run)
    point, ends = agreement(report, frame)
    mark = "measured" if run >= REPLICATES else f"extrapolated from {run}"
    print(f"{n:>9,}  fairlearn MetricFrame        {seconds:>10.2f}           ({mark} replicates)")
    print(
        f"{'':>9}  ours, same six, unclustered  {plain:>10.2f} {seconds / plain:>8,.0f}x  "
        f"values differ by {point:.0e}, AUC interval ends by {ends:.3f} (theirs: {run} replicates)"
    )
    print(f"{'':>9}  ours, clustered by patient   {clustered:>10.2f} {seconds / clustered:>8,.0f}x  not the same task")
    print(f"{'':>9}  ours, clustered, analytic    {analytic:>10.3f} {seconds / analytic:>8,.0f}x  no replicates")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 rows only, 10 fairlearn replicates, one repeat")
    arguments = parser.parse_args()
    import fairlearn
    import sklearn

    print(
        f"{cpu_model()}, {os.cpu_count()} cores, 1 thread; Python {platform.python_version()}, numpy {np.__version__}, "
        f"fairlearn {fairlearn.__version__}, scikit-learn {sklearn.__version__}"
    )
    print(f"{REPLICATES} replicates, {len(SHARES)} groups and everyone, {len(METRICS)} metrics; CPU seconds")
    print(f"{'rows':>9}  {'':<28} {'seconds':>10} {'ratio':>9}")
    sizes = {10_000: 10} if arguments.quick else FAIRLEARN_REPLICATES
    for n, run in sizes.items():
        run_size(n, run, 1 if arguments.quick or n > 100_000 else 3)


if __name__ == "__main__":
    main()
