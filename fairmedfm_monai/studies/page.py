"""Everything that a study tells: the long table, its tables and figures as files, and one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fairmedfm_monai.reporting.files import write_atomic

from .collect import DONE, UNREADABLE, collect, current, write_long
from .figures import Picture, draw, figure_columns
from .lookup import Numbers
from .page_context import build_context
from .table_text import write_table_files
from .tables import Source, build_table

if TYPE_CHECKING:
    from .plan import PlannedCell
    from .spec import Study

TEMPLATE = "study.html.j2"


def write_results(study: Study, plan: Sequence[PlannedCell], output: str | Path) -> Path:
    """Write results.parquet, results.csv, the tables, the figures and index.html.

    Nothing of it names a case or a patient. What cells have done since the plan was made is read from their folders.

    Args:
        study: the study.
        plan: its cells, from ``make_plan``.
        output: folder of the study.

    Returns:
        Path of index.html.
    """
    folder = Path(output)
    plan = current(plan, folder)
    frame = collect(plan, folder)
    write_long(frame, folder)
    source = _source(study, _as_read(plan, frame), frame)
    tables = [build_table(spec, source) for spec in study.tables]
    choices, paper = [choice.what for choice in study.ours], bool(study.paper or study.published)
    for table in tables:
        write_table_files(table, folder / "tables", choices=choices, paper=paper)
    pictures = [draw(spec, source, frame, position) for position, spec in enumerate(study.figures)]
    for picture in pictures:
        _write_picture(picture, folder / "figures")
    context = build_context(source, tables, pictures, frame, folder)
    return write_atomic(folder / "index.html", lambda path: path.write_text(_render(context), encoding="utf-8"))


def _source(study: Study, plan: Sequence[PlannedCell], frame: pd.DataFrame) -> Source:
    columns = [column for table in study.tables for column in table.columns]
    columns += [known.column for known in study.published]
    columns += [column for figure in study.figures for column in figure_columns(figure)]
    found = frame[frame["status"] == DONE].drop_duplicates("key")
    stamps = {
        key: [part for part in text.split(" | ") if part]
        for key, text in zip(found["key"], found["stamps"], strict=True)
    }
    return Source(study, plan, Numbers(frame, columns), stamps)


def _as_read(plan: Sequence[PlannedCell], frame: pd.DataFrame) -> list[PlannedCell]:
    """The plan with done cells whose files cannot be read as ``unreadable``."""
    broken = frame[frame["status"] == UNREADABLE].set_index("key")["reason"].to_dict()
    return [
        replace(planned, status=UNREADABLE, reason=broken[planned.cell.key]) if planned.cell.key in broken else planned
        for planned in plan
    ]


def _write_picture(picture: Picture, folder: Path) -> None:
    if picture.svg:
        write_atomic(folder / f"{picture.name}.svg", lambda path: path.write_text(picture.svg, encoding="utf-8"))


def _render(context: Mapping[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader

    # Every value is escaped; the template marks only our own SVG as safe.
    loader = PackageLoader("fairmedfm_monai.reporting")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(TEMPLATE).render(**context)
