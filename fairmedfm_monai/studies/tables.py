"""The tables of a study: seeds summarised, what is missing with its reason, published numbers beside ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .cell import Cell
from .collect import DONE
from .lookup import Numbers, field_of, limits, matches, same_number
from .seeds import Run, Summary, summarise

if TYPE_CHECKING:
    from .plan import PlannedCell
    from .spec import Choice, Column, Published, Study, TableSpec

SETTING = ("dataset", "task", "fm", "variant", "usage", "label", "mitigation", "attributes")
"""Fields that tell apart everything but seeds: numbers of different settings are never averaged."""
_PAIRED = ("dataset", "task", "fm", "variant", "usage", "seed")
_STATUS_WORDS = {"ready": "not run"}


@dataclass(frozen=True)
class Entry:
    """One number of a table.

    Attributes:
        summary: over the seeds; None where there is no number.
        missing: why there is none, or which seeds are not in it; empty where nothing is missing.
        planned: seeds that the plan has.
        published: the published number of the same cells, if one is known.
    """

    summary: Summary | None
    missing: str
    planned: int
    published: Published | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval: of differences, that they are not noise of the seeds alone."""
        return self.summary is not None and (self.summary.low > 0 or self.summary.high < 0)


@dataclass(frozen=True)
class Row:
    """One row: cells that differ in their seeds only.

    Attributes:
        names: values of the table's fields.
        cells: keys of its cells.
        entries: one per column.
        stamps: banners of its done cells.
        ours: numbers of the choices (positions among the study's ``ours``) that hold for it.
        per_seed: whether every seed has data of its own.
    """

    names: tuple[str, ...]
    cells: tuple[str, ...]
    entries: tuple[Entry, ...]
    stamps: tuple[str, ...]
    ours: tuple[int, ...]
    per_seed: bool


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        spec: what was asked for.
        fields: cell fields that name the rows; more than asked for where those do not tell the cells apart.
        columns: its numbers, ``*`` spelt out.
        rows: its rows, in the order of the plan.
        notes: facts that a reader of the table must know.
    """

    spec: TableSpec
    fields: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Source:
    """What tables are made from.

    Attributes:
        study: the study.
        plan: its cells with their current statuses.
        numbers: their numbers.
        stamps: key of a done cell -> its banners.
    """

    study: Study
    plan: Sequence[PlannedCell]
    numbers: Numbers
    stamps: Mapping[str, Sequence[str]]

    def partner(self, cell: Cell, against: str) -> PlannedCell | None:
        """The cell with another mitigation that a cell is compared with, paired by seed.

        Of several it is the one whose label is the longest beginning of the cell's own.
        """
        found = self._by_pair.get((against, *_pair(cell)), ())
        fitting = [planned for planned in found if cell.label.startswith(planned.cell.label)]
        return max(fitting, key=lambda planned: len(planned.cell.label), default=None)

    @cached_property
    def _by_pair(self) -> dict[tuple[Any, ...], list[PlannedCell]]:
        found: dict[tuple[Any, ...], list[PlannedCell]] = {}
        for planned in self.plan:
            found.setdefault((planned.cell.mitigation, *_pair(planned.cell)), []).append(planned)
        return found


def _pair(cell: Cell) -> tuple[Any, ...]:
    return tuple(getattr(cell, name) for name in _PAIRED)


def build_table(spec: TableSpec, source: Source) -> Table:
    """Build one table.

    Args:
        spec: which cells, rows and columns.
        source: plan and numbers.
    """
    chosen = [planned for planned in source.plan if matches(planned.cell, spec.where)]
    if spec.against:
        chosen = [planned for planned in chosen if planned.cell.mitigation != spec.against]
    columns = [one for column in spec.columns for one in source.numbers.expand(column, [p.cell for p in chosen])]
    fields = row_fields(spec.rows, [planned.cell for planned in chosen])
    rows = [_row(names, members, columns, spec, source) for names, members in grouped(chosen, fields)]
    added = [name for name in fields if name not in spec.rows]
    notes = [f"Rows are also told apart by {', '.join(added)}: different settings are never averaged."] if added else []
    return Table(spec, fields, tuple(columns), tuple(rows), tuple(notes))


def row_fields(wanted: Sequence[str], cells: Sequence[Cell]) -> tuple[str, ...]:
    """The wanted fields, and of the others those that keep cells of different settings apart."""
    fields = list(wanted)
    for name in SETTING:
        together: dict[tuple[str, ...], set[str]] = {}
        for cell in cells:
            together.setdefault(_names(cell, fields), set()).add(str(field_of(cell, name)))
        if name not in fields and any(len(values) > 1 for values in together.values()):
            fields.append(name)
    return tuple(fields)


def grouped(plan: Sequence[PlannedCell], fields: Sequence[str]) -> list[tuple[tuple[str, ...], list[PlannedCell]]]:
    """Planned cells by the values of some fields, in the order of the plan."""
    found: dict[tuple[str, ...], list[PlannedCell]] = {}
    for planned in plan:
        found.setdefault(_names(planned.cell, fields), []).append(planned)
    return list(found.items())


def _names(cell: Cell, fields: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(field_of(cell, name)) for name in fields)


def _row(
    names: tuple[str, ...], members: Sequence[PlannedCell], columns: Sequence[Column], spec: TableSpec, source: Source
) -> Row:
    cells = [planned.cell for planned in members]
    entries = [
        difference(members, column, spec.against, source) if spec.against else entry(members, column, source)
        for column in columns
    ]
    stamps = dict.fromkeys(stamp for cell in cells for stamp in source.stamps.get(cell.key, ()))
    per_seed = source.study.datasets[cells[0].dataset].per_seed
    return Row(names, tuple(c.key for c in cells), tuple(entries), tuple(stamps), ours_of(cells, source), per_seed)


def ours_of(cells: Sequence[Cell], source: Source) -> tuple[int, ...]:
    """Which of the choices that were not published hold for some of the cells."""
    chosen: Sequence[Choice] = source.study.ours
    return tuple(k for k, choice in enumerate(chosen) if any(matches(cell, choice.where) for cell in cells))


def entry(members: Sequence[PlannedCell], column: Column, source: Source) -> Entry:
    """One number of cells that differ in their seeds only, with what was published of it."""
    runs, missing = [], []
    for planned in members:
        number = source.numbers.get(planned.cell, column)
        if planned.status == DONE and math.isfinite(number.value):
            runs.append(Run(planned.cell.seed, number.value, number.low, number.high))
        else:
            missing.append(number.reason if planned.status == DONE else status_word(planned.status))
    made = _entry(runs, missing, len(members), _per_seed(members, source), limits(column))
    return replace(made, published=published_for([planned.cell for planned in members], column, source.study))


def difference(members: Sequence[PlannedCell], column: Column, against: str, source: Source) -> Entry:
    """Mean difference to the cells with another mitigation, paired by seed.

    A single pair has no interval: the runs' own ones do not tell how far two runs on the same patients agree.
    """
    runs, missing = [], []
    for planned in members:
        other = source.partner(planned.cell, against)
        absent = [one for one in (planned, other) if one is not None and one.status != DONE]
        if other is None or absent:
            missing.append(status_word(absent[0].status) if absent else f"no {against} to compare with")
            continue
        ours, theirs = (source.numbers.get(one.cell, column) for one in (planned, other))
        if math.isfinite(ours.value - theirs.value):
            runs.append(Run(planned.cell.seed, ours.value - theirs.value))
        else:
            missing.append(theirs.reason if math.isfinite(ours.value) else ours.reason)
    return _entry(runs, missing, len(members), _per_seed(members, source), (-math.inf, math.inf))


def _entry(
    runs: Sequence[Run], missing: Sequence[str], planned: int, per_seed: bool, bounds: tuple[float, float]
) -> Entry:
    why = "; ".join(dict.fromkeys(text or "undefined" for text in missing))
    if not runs:
        return Entry(None, why or "no cells", planned)
    found = summarise(runs, per_seed=per_seed)
    low, high = (min(max(end, bounds[0]), bounds[1]) if math.isfinite(end) else end for end in (found.low, found.high))
    told = f"{len(runs)} of {planned} seeds: {why}" if missing else ""
    return Entry(replace(found, low=low, high=high), told, planned)


def _per_seed(members: Sequence[PlannedCell], source: Source) -> bool:
    return source.study.datasets[members[0].cell.dataset].per_seed


def status_word(status: str) -> str:
    """A status as a table shows it."""
    return _STATUS_WORDS.get(status, status)


def published_for(cells: Sequence[Cell], column: Column, study: Study) -> Published | None:
    """The published number of these cells, if the study knows one."""
    for known in study.published:
        if same_number(known.column, column) and all(matches(cell, known.where) for cell in cells):
            return known
    return None
