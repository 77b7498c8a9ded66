"""Whether the parts of a study name things that there are: datasets, FMs, usages, methods, metrics."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from fairmedfm_monai.catalog import rows
from fairmedfm_monai.catalog.row import TASKS
from fairmedfm_monai.data.manifest import SPLITS
from fairmedfm_monai.fairness.disparities import (
    DISTANCE,
    EQUITY_SCALED,
    NAMED,
    ODDS_METRIC,
    ODDS_OVER_CLASSES,
    ODDS_STATISTICS,
)
from fairmedfm_monai.fairness.registry import METRICS
from fairmedfm_monai.studies.methods import check_method, method_names
from fairmedfm_monai.studies.records import Faults
from fairmedfm_monai.studies.sources import DEMOS, facts_of
from fairmedfm_monai.studies.spec import Column, Dataset, Grid, Study

CELL_FIELDS = (*("dataset", "task", "fm", "variant", "usage", "mitigation", "attributes", "seed", "label", "base"),)
"""Cell fields that tables, figures and published numbers select by."""
FIGURES = {"tradeoff": ("utility", "gap"), "favoured": ("column",), "ranks": ("column",)}
"""Kind of figure -> columns that it needs."""
SOURCES = ("paper", "code", "ours")
STATISTICS = (
    *("gap", "worst", "ratio", "sd", "skewness", *EQUITY_SCALED, DISTANCE),
    *NAMED,
    *ODDS_STATISTICS,
    ODDS_OVER_CLASSES,
)
_NOT_OPTIONS = {"output", "scan", "projector", "bias", "strength"}


def usage_names() -> tuple[str, ...]:
    """Usages that any FM of the catalog admits."""
    return tuple(dict.fromkeys(usage for row in rows().values() for usage in row.usages))


def metric_names() -> tuple[str, ...]:
    """Metrics that tables may show."""
    return (*METRICS, ODDS_METRIC)


def check_dataset(dataset: Dataset, place: str, faults: Faults) -> None:
    """One dataset of a study."""
    if (dataset.release is None) == (dataset.demo is None):
        faults.add(place, "must have either `release` or `demo`")
    elif dataset.release is not None:
        _check_release(dataset, place, faults)
    elif faults.known(f"{place}.demo", dataset.demo, tuple(DEMOS), "it"):
        for name in dataset.options:
            faults.known(f"{place}.options", name, _demo_options(str(dataset.demo)), "each option")
        if dataset.bias is not None:
            faults.known(f"{place}.bias", dataset.bias, DEMOS[str(dataset.demo)].biases, "it")
        if dataset.per_seed and "seed" in dataset.options:
            faults.add(f"{place}.options.seed", "cannot be given together with `per_seed`")


def _check_release(dataset: Dataset, place: str, faults: Faults) -> None:
    from fairmedfm_monai.data.prepare import public_datasets

    if not faults.known(f"{place}.release", dataset.release, tuple(public_datasets()), "it"):
        return
    stray = [name for name in ("bias", "strength", "per_seed") if getattr(dataset, name)]
    if stray:
        faults.add(place, f"{', '.join(stray)} belong to demo sets, not to a release")
    for name in dataset.options:
        if not faults.known(f"{place}.options", name, ("rule", "protocol", "seed"), "each option"):
            return
    try:
        facts_of(dataset)
    except ValueError as error:
        faults.add(f"{place}.options", str(error))


@cache
def _demo_options(demo: str) -> tuple[str, ...]:
    from fairmedfm_monai.data.demo.build import MAKERS

    return tuple(name for name in inspect.signature(MAKERS[demo]).parameters if name not in _NOT_OPTIONS)


def check_grid(grid: Grid, datasets: Mapping[str, Dataset], place: str, faults: Faults) -> None:
    """One grid of a study."""
    faults.known(f"{place}.task", grid.task, TASKS, "it")
    for name in ("datasets", "fms", "usages", "mitigations", "seeds"):
        if not getattr(grid, name):
            faults.add(f"{place}.{name}", "must not be empty")
    for usage in grid.usages:
        faults.known(f"{place}.usages", usage, usage_names(), "each")
    _check_task(grid, datasets, place, faults)
    _check_models(grid, place, faults)
    for method in grid.mitigations:
        check_method(method, place=f"{place}.mitigations.{method.name}", faults=faults)
    for label in (grid.label, *(method.label for method in grid.mitigations)):
        if label:
            faults.slug(f"{place}.label", label)


def _check_task(grid: Grid, datasets: Mapping[str, Dataset], place: str, faults: Faults) -> None:
    for slug in grid.datasets:
        if faults.known(f"{place}.datasets", slug, tuple(datasets), "each"):
            task = facts_of(datasets[slug]).task
            if task != grid.task:
                faults.add(f"{place}.datasets", f"{slug!r} is for {task}, but the grid's task is {grid.task!r}")


def _check_models(grid: Grid, place: str, faults: Faults) -> None:
    for model in grid.fms:
        if faults.known(f"{place}.fms", model.name, tuple(rows()), "each"):
            variants = ("default", *rows()[model.name].variants)
            faults.known(f"{place}.fms.{model.name}.variant", model.variant, variants, "it")


def check_where(where: Mapping[str, Any], study: Study, place: str, faults: Faults) -> None:
    """Cell fields and values that select cells; a list means any of its values."""
    known: dict[str, Callable[[], tuple[str, ...]]] = {
        "dataset": lambda: tuple(study.datasets),
        "task": lambda: TASKS,
        "fm": lambda: tuple(rows()),
        "usage": usage_names,
        "mitigation": method_names,
    }
    for field, value in where.items():
        if faults.known(place, field, CELL_FIELDS, "each key") and field in known:
            for each in value if isinstance(value, (list, tuple)) else [value]:
                faults.known(f"{place}.{field}", each, known[field](), "it")


def check_column(column: Column, place: str, faults: Faults) -> None:
    """A number of a cell."""
    faults.known(f"{place}.metric", column.metric, metric_names(), "it")
    faults.known(f"{place}.split", column.split, SPLITS, "it")
    if column.statistic:
        faults.known(f"{place}.statistic", column.statistic, STATISTICS, "it")
        if not column.attribute or column.group:
            faults.add(place, "a `statistic` is about an `attribute` and no `group`")
    elif column.group and not column.attribute:
        faults.add(place, "a `group` needs its `attribute`")
