"""The cells of a study: its grids, multiplied out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from fairmedfm_monai.catalog import rows
from fairmedfm_monai.studies.bundle_keys import OF_THE_STUDY, check_keys, has_key
from fairmedfm_monai.studies.bundles import starts_from_model
from fairmedfm_monai.studies.cell import Cell
from fairmedfm_monai.studies.methods import is_postprocessor, not_for_classes, not_for_task, not_for_usage
from fairmedfm_monai.studies.sources import Facts
from fairmedfm_monai.studies.spec import Dataset, Grid, Mitigation, Model, Study

STAGES = ("train", "evaluate")


def study_cells(
    study: Study, *, seeds: Sequence[int] | None = None, overrides: Mapping[str, Any] | None = None
) -> list[Cell]:
    """All cells, each after the one that it builds on.

    Args:
        study: the study.
        seeds: in place of those of all grids.
        overrides: ``{"train": {...}, "evaluate": {...}}``, laid over the settings of every cell that has such keys.

    Raises:
        ValueError: two cells of one key, a ``start_from`` that no cell answers to, or settings that a bundle lacks.
    """
    found: dict[str, Cell] = {}
    starts: dict[str, str] = {}
    for grid in study.grids:
        for cell, start in _grid_cells(grid, study.datasets, seeds):
            if found.setdefault(cell.key, cell) != cell or starts.setdefault(cell.key, start) != start:
                msg = f"grids: two cells with other settings are both called {cell.key}: give one of them a `label`"
                raise ValueError(msg)
    based = {key: replace(cell, base=_base(cell, starts[key], found)) for key, cell in found.items()}
    for cell in based.values():
        if _is_bundle(cell):
            check_keys(cell)
    return in_order(overridden(list(based.values()), overrides or {}))


def _grid_cells(grid: Grid, datasets: Mapping[str, Dataset], seeds: Sequence[int] | None) -> Iterator[tuple[Cell, str]]:
    """Cells of a grid, each with what it starts from ("" for nothing)."""
    chosen = tuple(grid.seeds if seeds is None else seeds)
    for dataset, model, usage, method in product(grid.datasets, grid.fms, grid.usages, grid.mitigations):
        first = _cell(grid, dataset, model, usage, method)
        if not first.trained and method.name != "erm":
            continue
        repeated = first.trained or datasets[dataset].per_seed
        start = method.start_from or ("erm" if is_postprocessor(method.name) else "")
        for seed in chosen if repeated else chosen[:1]:
            yield replace(first, seed=seed), start


def _cell(grid: Grid, dataset: str, model: Model, usage: str, method: Mitigation) -> Cell:
    cell = Cell(
        dataset=dataset,
        task=grid.task,
        fm=model.name,
        variant=model.variant,
        usage=usage,
        mitigation=method.name,
        attributes=method.attributes,
        label="-".join(label for label in (grid.label, method.label) if label),
        options=dict(method.options),
        evaluate={**grid.evaluate, **method.evaluate},
    )
    trains = cell.trained and not is_postprocessor(method.name)
    return replace(cell, train={**grid.train, **method.train}) if trains else cell


def _base(cell: Cell, start: str, cells: Mapping[str, Cell]) -> str | None:
    """Key of the cell to build on: equal in all but method and label; that of the same label comes first."""
    if not start:
        return None
    shared = ("dataset", "task", "fm", "variant", "usage", "seed")
    fits = [
        other
        for other in cells.values()
        if method_of(other) == start.replace("+", ".")
        and other.key != cell.key
        and all(getattr(other, name) == getattr(cell, name) for name in shared)
    ]
    fits.sort(key=lambda other: (not cell.label.startswith(other.label), -len(other.label)))
    if not fits:
        msg = f"grids: {cell.key} starts from {start!r}, but no cell of its dataset, FM, usage and seed has that method"
        raise ValueError(msg)
    return fits[0].key


def method_of(cell: Cell) -> str:
    """The method part of a cell's key, e.g. ``group_dro-sex.age``."""
    return cell.key.split("/")[3]


def _is_bundle(cell: Cell) -> bool:
    """Whether the catalog has the cell's bundle."""
    row = rows()[cell.fm]
    return row.task == cell.task and cell.usage in row.usages


def overridden(cells: Sequence[Cell], overrides: Mapping[str, Any]) -> list[Cell]:
    """Cells with the settings of a call laid over their own.

    Raises:
        ValueError: overrides of another form, or a key that no bundle of the study has.
    """
    for stage, values in overrides.items():
        if stage not in STAGES or not isinstance(values, Mapping):
            msg = f'`overrides` must be {{"train": {{...}}, "evaluate": {{...}}}}, but got {stage!r}: {values!r}'
            raise ValueError(msg)
    for stage, values in overrides.items():
        for key in values:
            if key in OF_THE_STUDY:
                msg = f"`overrides`: `{stage}` has {key!r}, which the study itself sets"
                raise ValueError(msg)
            if not any(_takes(cell, stage, key) for cell in cells):
                msg = f"`overrides`: no {stage}.json of this study has the key {key!r}"
                raise ValueError(msg)
    return [_laid_over(cell, overrides) for cell in cells]


def _laid_over(cell: Cell, overrides: Mapping[str, Any]) -> Cell:
    for stage, values in overrides.items():
        fitting = {key: value for key, value in values.items() if _takes(cell, stage, key)}
        laid = {**getattr(cell, stage), **fitting}
        cell = replace(cell, train=laid) if stage == "train" else replace(cell, evaluate=laid)
    return cell


def _takes(cell: Cell, stage: str, key: str) -> bool:
    trains = cell.trained and not is_postprocessor(cell.mitigation)
    return _is_bundle(cell) and (stage == "evaluate" or trains) and has_key(cell, stage, key)


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """The cells as they come, but each after the one that it builds on.

    Raises:
        ValueError: cells that build on each other in a circle.
    """
    by_key = {cell.key: cell for cell in cells}
    placed: dict[str, Cell] = {}

    def place(cell: Cell, waiting: tuple[str, ...]) -> None:
        if cell.key in waiting:
            msg = f"grids: cells build on each other in a circle: {' <- '.join((*waiting, cell.key))}"
            raise ValueError(msg)
        if cell.key not in placed:
            if cell.base is not None:
                place(by_key[cell.base], (*waiting, cell.key))
            placed[cell.key] = cell

    for cell in cells:
        place(cell, ())
    return list(placed.values())


def not_offered(cell: Cell, facts: Facts) -> str:
    """Why there is no such combination; empty where there is.

    Args:
        cell: the cell.
        facts: of its dataset.
    """
    return _no_bundle(cell, facts) or _no_method(cell, facts)


def _no_bundle(cell: Cell, facts: Facts) -> str:
    row = rows()[cell.fm]
    if row.task != cell.task:
        return f"{cell.fm} is a model for {row.task}"
    if cell.usage not in row.usages:
        return f"{cell.fm} has no usage {cell.usage}; it has {', '.join(row.usages)}"
    if row.is_volumetric and facts.spatial_dims == 2:
        return f"{cell.fm} sees volumes, the dataset has images"
    if row.is_volumetric and cell.task == "classification" and facts.modality != "ct":
        return f"{cell.fm} sees CT volumes, the dataset has {facts.modality}"
    return ""


def _no_method(cell: Cell, facts: Facts) -> str:
    reason = not_for_task(cell.mitigation, cell.task) or not_for_usage(cell.mitigation, cell.usage)
    if facts.multi_class:
        reason = reason or not_for_classes(cell.mitigation)
    starts_anew = cell.base is None or is_postprocessor(cell.mitigation)
    if reason or starts_anew or starts_from_model(cell.bundle):
        return reason
    return f"the training of {cell.bundle} cannot start from another model"
