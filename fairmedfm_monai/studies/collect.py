"""The numbers of all cells of a study as one long table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fairmedfm_monai.fairness.report import DISPARITY_COLUMNS, SUBGROUP_COLUMNS, read_table
from fairmedfm_monai.reporting.files import write_atomic

from .cell import Cell
from .jobs import job_folder, read_failed, state

if TYPE_CHECKING:
    from .plan import PlannedCell

DONE = "done"
UNREADABLE = "unreadable"
_RUNNABLE = ("ready", "done", "failed")
RESULTS = "results.parquet"
RESULTS_CSV = "results.csv"
CELL_LABEL = "cell_label"
"""Column of a cell's own label: ``label`` is the class or structure that a number is about."""
_COUNTS = ("unit", "n_patients", "n_cases", "n_positives", "n_negatives", "n_failed")
_CHANCE = ("null_low", "null_high", "detectable", "p_value", "p_adjusted")
NUMBER_COLUMNS = (
    *("split", "prompt", "label", "attribute", "group", "metric", "statistic", "value", "ci_low", "ci_high", "reason"),
    *_COUNTS,
    *_CHANCE,
)
_TEXT = ("split", "prompt", "label", "attribute", "group", "metric", "statistic", "reason", "unit")
_BLANK = {name: "" if name in _TEXT else float("nan") for name in NUMBER_COLUMNS}
CELL_COLUMNS = ("key", *(CELL_LABEL if one.name == "label" else one.name for one in fields(Cell)))
COLUMNS = (*CELL_COLUMNS, "status", "stamps", *NUMBER_COLUMNS)


def evaluation_folder(output: str | Path, cell: Cell) -> Path:
    """Where the tables and the report of a cell are."""
    return job_folder(output, cell.key) / "eval"


def current(plan: Sequence[PlannedCell], output: str | Path) -> list[PlannedCell]:
    """The plan with the statuses that the cells' folders tell now.

    A plan is older than the runs it led to: what ran since is ``done``, ``failed`` or ``interrupted``. Results with the
    plan's settings count whoever made them, also of cells that ``--only`` left out of this call.
    """
    return [_current(planned, output) for planned in plan]


def _current(planned: PlannedCell, output: str | Path) -> PlannedCell:
    folder = job_folder(output, planned.cell.key)
    found = state(folder, planned.settings_hash)
    if found == DONE:
        return replace(planned, status=DONE, reason="")
    if found == "new" or planned.status not in _RUNNABLE:
        return planned if planned.status != DONE else replace(planned, status="ready", reason="not run yet")
    reason = _failure(read_failed(folder)) if found == "failed" else "stopped before its end; goes on in the next run"
    return replace(planned, status=found, reason=reason)


def collect(plan: Sequence[PlannedCell], output: str | Path) -> pd.DataFrame:
    """Gather the subgroup and disparity tables of all done cells.

    Args:
        plan: the cells with their current statuses, see :func:`current`.
        output: folder of the study.

    Returns:
        Columns ``COLUMNS``. A done cell has one row per number (``statistic`` is empty for values of a group, ``group``
        for disparities); every other cell has one row without a number whose ``status`` and ``reason`` tell why.
        ``stamps`` holds the banners of the run, joined by `` | ``. A done cell whose files cannot be read has the
        status ``unreadable``.
    """
    parts = [_rows(planned, output) for planned in plan]
    # Cells without numbers are one frame together: of a large study most may be missing.
    blanks = pd.DataFrame([part for part in parts if isinstance(part, dict)], columns=list(COLUMNS))
    blanks = blanks.astype({name: float for name in COLUMNS if name in NUMBER_COLUMNS and name not in _TEXT})
    tables = [part for part in parts if isinstance(part, pd.DataFrame)]
    together = pd.concat([*tables, blanks], ignore_index=True) if tables else blanks
    order = {planned.cell.key: position for position, planned in enumerate(plan)}
    return together.sort_values("key", key=lambda keys: keys.map(order), kind="stable", ignore_index=True)[
        list(COLUMNS)
    ]


def write_long(frame: pd.DataFrame, output: str | Path) -> list[Path]:
    """Write the long table as Parquet and as CSV."""
    folder = Path(output)
    return [
        write_atomic(folder / RESULTS, lambda path: frame.to_parquet(path, index=False)),
        write_atomic(
            folder / RESULTS_CSV, lambda path: frame.to_csv(path, index=False, na_rep="nan", lineterminator="\n")
        ),
    ]


def _failure(told: Mapping[str, Any]) -> str:
    """Stage and type of an error: its message may name patients' files, so it stays in the cell's folder."""
    stage = f" in {told['stage']}" if told.get("stage") else ""
    kind = _exception_type(told.get("error"))
    return f"failed{stage}{f' with {kind}' if kind else ''}; see log.txt in its folder"


def _exception_type(error: Any) -> str:
    """``ValueError`` of ``ValueError: case p1 ...`` or of ``{"type": "ValueError", ...}``."""
    text = str(error.get("type", "") if isinstance(error, Mapping) else error or "")
    name = text.partition(":")[0].strip().rpartition(".")[2]
    return name if name.isidentifier() else ""


def _rows(planned: PlannedCell, output: str | Path) -> pd.DataFrame | dict[str, Any]:
    """The numbers of a cell, or one row that says why there are none."""
    known: dict[str, Any] = cell_values(planned.cell) | {"status": planned.status, "stamps": ""}
    if planned.status != DONE:
        return _BLANK | known | {"reason": planned.reason}
    folder = evaluation_folder(output, planned.cell)
    try:
        numbers = _numbers(folder)
        known["stamps"] = " | ".join(read_run(folder).get("banners") or [])
    except (OSError, ValueError, KeyError) as error:  # pandas' and JSON's own errors are ValueErrors
        reason = f"its results cannot be read ({type(error).__name__}); run it again"
        return _BLANK | known | {"status": UNREADABLE, "reason": reason}
    return numbers.assign(**known)


def cell_values(cell: Cell) -> dict[str, Any]:
    """A cell's fields as values of columns: attributes joined by ``+``, mappings as JSON text."""
    told = cell.to_json()
    told[CELL_LABEL] = told.pop("label")
    flat = {
        name: json.dumps(value, sort_keys=True) if isinstance(value, dict) else value for name, value in told.items()
    }
    return {"key": cell.key, **flat, "attributes": "+".join(cell.attributes), "base": cell.base or ""}


def _numbers(folder: Path) -> pd.DataFrame:
    groups = read_table(folder / "subgroups.csv")[list(SUBGROUP_COLUMNS)]
    gaps = read_table(folder / "disparities.csv")[list(DISPARITY_COLUMNS)]
    both = pd.concat([groups.assign(statistic=""), gaps.assign(group="", unit="")], ignore_index=True)
    return both.reindex(columns=list(NUMBER_COLUMNS))


def read_run(folder: Path) -> dict[str, Any]:
    """What an evaluation tells of itself (``run.json``)."""
    told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if not isinstance(told, dict):
        msg = f"{folder / 'run.json'}: expected an object, got {type(told).__name__}"
        raise ValueError(msg)
    return told
