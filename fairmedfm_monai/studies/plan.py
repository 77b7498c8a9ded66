"""Which cells of a study there are, which of them can run, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from fairmedfm_monai.catalog import rows
from fairmedfm_monai.studies.cell import Cell
from fairmedfm_monai.studies.cells import not_offered, study_cells
from fairmedfm_monai.studies.cost import Cost, estimate
from fairmedfm_monai.studies.jobs import job_folder, read_failed, settings_hash, state
from fairmedfm_monai.studies.sources import Facts, Source, facts_of, find_source
from fairmedfm_monai.studies.spec import Study

READY, DONE, FAILED = "ready", "done", "failed"
NO_DATA, NO_WEIGHTS, NOT_OFFERED, LEFT_OUT = "no data", "no weights", "not offered", "left out"
STATUSES = (READY, DONE, FAILED, NO_DATA, NO_WEIGHTS, NOT_OFFERED, LEFT_OUT)
RUNNABLE = (READY, FAILED)
"""Cells that a call runs: those that failed are tried again."""


@dataclass(frozen=True)
class PlannedCell:
    """A cell and how it stands.

    Attributes:
        cell: the cell.
        status: one of ``STATUSES``. ``failed``: the last run of these settings failed; it is tried again.
        reason: why, and what to do; empty where there is nothing to say.
        dataset_dir: its dataset folder, there or to be.
        seconds: estimated CPU seconds that are left to do; the images of an FM x dataset are encoded by one cell.
        settings_hash: of all that decides its numbers.
    """

    cell: Cell
    status: str
    reason: str
    dataset_dir: Path
    seconds: float
    settings_hash: str


def make_plan(
    study: Study,
    *,
    output: str | Path,
    data: str | Path | None = None,
    weights: str = "pretrained",
    only: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    n_bootstrap: int = 1000,
) -> list[PlannedCell]:
    """All cells of a study with their statuses, each after the one that it builds on. Nothing is made or downloaded.

    Args:
        study: the study.
        output: folder of the study's runs.
        data: folder of prepared releases.
        weights: of all FMs: ``pretrained``, ``random``, ``tiny`` or a path.
        only: patterns of keys (``*``, ``?``, ``[...]``); other cells are left out.
        seeds: in place of the study's.
        overrides: ``{"train": {...}, "evaluate": {...}}`` for all cells that have such settings.
        n_bootstrap: replicates for intervals.

    Raises:
        ValueError: overrides that no bundle has, or a pattern that no cell answers to.
    """
    cells = study_cells(study, seeds=seeds, overrides=overrides)
    _check_patterns(only, cells)
    about = _About(study, Path(output), Path(data) if data is not None else None, weights, n_bootstrap)
    planned: dict[str, PlannedCell] = {}
    for cell in cells:
        chosen = only is None or any(fnmatchcase(cell.key, pattern) for pattern in only)
        planned[cell.key] = about.planned(cell, planned.get(str(cell.base)), chosen=chosen)
    return _with_costs(list(planned.values()), about)


def _check_patterns(only: Sequence[str] | None, cells: Sequence[Cell]) -> None:
    for pattern in only or ():
        if not any(fnmatchcase(cell.key, pattern) for cell in cells):
            keys = ", ".join(cell.key for cell in cells[:3])
            msg = f"`only`: no cell answers to {pattern!r}; keys look like {keys}"
            raise ValueError(msg)


class _About:
    """What the cells of a call have in common."""

    def __init__(self, study: Study, output: Path, data: Path | None, weights: str, n_bootstrap: int) -> None:
        self.study, self.output, self.data = study, output, data
        self.weights, self.n_bootstrap = weights, n_bootstrap
        self._missing = cache(self._look_for_weights)
        self._found = cache(self._find)

    def facts(self, cell: Cell) -> Facts:
        """Of the cell's dataset."""
        return facts_of(self.study.datasets[cell.dataset])

    def source(self, cell: Cell) -> Source:
        """Where the cell's dataset is."""
        per_seed = self.study.datasets[cell.dataset].per_seed
        return self._found(cell.dataset, cell.seed if per_seed else 0)

    def _find(self, slug: str, seed: int) -> Source:
        return find_source(slug, self.study.datasets[slug], data=self.data, output=self.output, seed=seed)

    def _look_for_weights(self, fm: str, variant: str, usage: str) -> str:
        from fairmedfm_monai.studies.weights_at_hand import missing_weights  # loads torch

        return missing_weights(rows()[fm], variant, usage, self.weights)

    def planned(self, cell: Cell, base: PlannedCell | None, *, chosen: bool) -> PlannedCell:
        """The cell with its status; costs come later."""
        source = self.source(cell)
        found = settings_hash(self.settings(cell, source, base))
        status, reason = self._status(cell, source, base, found)
        if not chosen and status != DONE:
            status, reason = LEFT_OUT, "no pattern of `only`"
        return PlannedCell(cell, status, reason, source.folder, 0.0, found)

    def settings(self, cell: Cell, source: Source, base: PlannedCell | None) -> dict[str, Any]:
        """All that decides a cell's numbers, as JSON values."""
        return {
            "cell": cell.to_json(),
            "weights": _weights_identity(self.weights),
            "n_bootstrap": self.n_bootstrap,
            "dataset": source.content,
            "base": base.settings_hash if base else None,
        }

    def _impossible(self, cell: Cell, source: Source) -> tuple[str, str] | None:
        """Why no results of a cell can be there."""
        why_not = not_offered(cell, self.facts(cell))
        if why_not:
            return NOT_OFFERED, why_not
        return (NO_DATA, source.advice) if source.status == "no data" else None

    def _status(self, cell: Cell, source: Source, base: PlannedCell | None, wanted: str) -> tuple[str, str]:
        impossible = self._impossible(cell, source)
        if impossible is not None:
            return impossible
        folder = job_folder(self.output, cell.key)
        found = state(folder, wanted)
        if found == "done":
            return DONE, ""
        if base is not None and base.status not in (DONE, *RUNNABLE):
            return base.status, f"base not ready: {base.cell.key} ({base.reason})"
        missing = self._missing(cell.fm, cell.variant, cell.usage)
        if missing:
            return NO_WEIGHTS, missing
        return _runnable(folder, found)


def _runnable(folder: Path, found: str) -> tuple[str, str]:
    if found == "failed":
        stage = str(read_failed(folder).get("stage", "")) or "it"
        return FAILED, f"{stage} failed in the last call, it is tried again; see log.txt in its folder"
    return READY, "goes on where it was interrupted" if found == "interrupted" else ""


def _weights_identity(weights: str) -> str:
    """The kind of weights; a file also by size and time, since its content would take long to hash."""
    from fairmedfm_monai.networks.weights import weights_kind

    if weights_kind(weights) != "file":
        return weights
    path = Path(weights).expanduser()
    told = f"{path.stat().st_size}:{path.stat().st_mtime_ns}" if path.is_file() else "missing"
    return f"{path.name}:{told}"


def _with_costs(plan: Sequence[PlannedCell], about: _About) -> list[PlannedCell]:
    """The plan with what is left to do: nothing for done cells, encodings once per FM and dataset."""
    costs = {
        planned.cell.key: _cost(planned, about) for planned in plan if planned.status not in (NOT_OFFERED, LEFT_OUT)
    }
    encoded = {costs[planned.cell.key].shared for planned in plan if planned.status == DONE}
    found = []
    for planned in plan:
        cost = costs.get(planned.cell.key)
        if cost is None or planned.status == DONE:
            found.append(planned)
            continue
        first = cost.shared not in encoded
        encoded.add(cost.shared)
        found.append(replace(planned, seconds=cost.own + (cost.encoding if first else 0.0)))
    return found


def _cost(planned: PlannedCell, about: _About) -> Cost:
    cell, source = planned.cell, about.source(planned.cell)
    return estimate(cell, about.facts(cell), source.sizes, str(source.folder))
