"""A figure of a study as the page shows it, and the cells that it compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .collect import DONE
from .lookup import field_of, field_title, field_value, matches
from .tables import Source, grouped, row_fields, status_word

if TYPE_CHECKING:
    from .cell import Cell
    from .plan import PlannedCell
    from .spec import FigureSpec


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with its words.

    Attributes:
        name: file name without ending.
        title: heading.
        svg: the picture, which has its own words for people who do not see it; empty where nothing can be drawn.
        texts: paragraphs beneath it, the main result first.
        notes: what was left out, and limits.
        head: headings of the table of its numbers.
        rows: that table.
        words: how many of its columns are words.
    """

    name: str
    title: str
    svg: str = ""
    texts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    words: int = 1


@dataclass(frozen=True)
class Group:
    """Cells that differ in their seeds only: ``block`` is what they are compared within, ``name`` what is compared."""

    block: str
    name: str
    members: tuple[PlannedCell, ...]

    @property
    def missing(self) -> str:
        """Why there are no numbers; ``not reported`` where some of its cells are done."""
        words = dict.fromkeys(status_word(one.status) for one in self.members if one.status != DONE)
        return "not reported" if any(one.status == DONE for one in self.members) else "; ".join(words)


@dataclass(frozen=True)
class Compared:
    """The cells of a figure.

    Attributes:
        groups: the cells by block and compared name, in the order of the plan.
        over: fields that tell blocks apart.
        notes: which fields were added so that different settings are never mixed.
    """

    groups: tuple[Group, ...]
    over: tuple[str, ...]
    notes: tuple[str, ...]


def compared(spec: FigureSpec, source: Source) -> Compared:
    """The planned cells of a figure by block and compared name.

    Where the figure's own fields do not tell the cells apart, those that do are added to what is compared, a dataset to
    the blocks.
    """
    chosen = [planned for planned in source.plan if matches(planned.cell, spec.where)]
    wanted = (*spec.over, *spec.compare)
    added = [name for name in row_fields(wanted, [planned.cell for planned in chosen]) if name not in wanted]
    over = (*spec.over, *(name for name in added if name == "dataset"))
    compare = (*spec.compare, *(name for name in added if name != "dataset"))
    groups = [
        Group(name_of(members[0].cell, over), name_of(members[0].cell, compare), tuple(members))
        for _, members in grouped(chosen, (*over, *compare))
    ]
    told = f"Cells are also told apart by {', '.join(map(field_title, added))}: different settings are never mixed."
    return Compared(tuple(groups), over, (told,) if added else ())


def name_of(cell: Cell, fields: Sequence[str]) -> str:
    """What cells with the same values of some fields are called; empty attributes, labels and bases are left out."""
    values = [(name, str(field_of(cell, name))) for name in fields]
    return " · ".join(field_value(name, value) for name, value in values if value) or "–"
