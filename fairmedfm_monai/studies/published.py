"""Published numbers beside ours: where they lie, and what stands against calling ours a reproduction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .lookup import field_value, matches
from .seeds import PATIENTS, TRAINING, Summary
from .tables import SETTING, Entry, Source, entry, grouped, ours_of

if TYPE_CHECKING:
    from .plan import PlannedCell
    from .spec import Published

INSIDE, OUTSIDE, OPEN = "inside our interval", "outside our interval", "no interval of ours"
NOT_PLANNED = "no such cell in this plan"


@dataclass(frozen=True)
class Comparison:
    """A published number and ours.

    Attributes:
        published: the published one.
        cells: keys of our cells; none where the plan has none.
        entry: our number, or why there is none.
        flag: ``INSIDE``, ``OUTSIDE``, ``OPEN``, or empty without a number of ours.
        against: what stands against calling ours a reproduction, one phrase each.
    """

    published: Published
    cells: tuple[str, ...]
    entry: Entry
    flag: str
    against: tuple[str, ...]


def compare(source: Source) -> list[Comparison]:
    """Every published number of a study beside ours, also those that no cell of the plan answers."""
    found = []
    for known in source.study.published:
        chosen = [planned for planned in source.plan if matches(planned.cell, known.where)]
        if not chosen:
            found.append(Comparison(known, (), Entry(None, NOT_PLANNED, 0, known), "", _settings(known)))
        found += [_comparison(known, members, source) for _, members in grouped(chosen, SETTING)]
    return found


def _comparison(known: Published, members: list[PlannedCell], source: Source) -> Comparison:
    cells = [planned.cell for planned in members]
    ours = entry(members, known.column, source)
    choices = [f"ours: {source.study.ours[k].what}" for k in ours_of(cells, source)]
    stamps = dict.fromkeys(stamp for cell in cells for stamp in source.stamps.get(cell.key, ()))
    against = (*_settings(known), *stamps, *choices)
    return Comparison(known, tuple(cell.key for cell in cells), ours, flag(known.value, ours.summary), against)


def _settings(known: Published) -> tuple[str, ...]:
    return (known.settings,) if known.settings else ()


def flag(value: float, ours: Summary | None) -> str:
    """Where a published value lies: ``INSIDE`` or ``OUTSIDE`` our interval, ``OPEN`` where we have none."""
    if ours is None:
        return ""
    if not (math.isfinite(ours.low) and math.isfinite(ours.high)):
        return OPEN
    return INSIDE if ours.low <= value <= ours.high else OUTSIDE


def flag_text(value: float, ours: Summary | None) -> str:
    """The flag with what the interval lets vary, and whether the runs' own intervals say otherwise."""
    found = flag(value, ours)
    if ours is None or found in {"", OPEN}:
        return found
    told = f"{found} ({ours.replicates})" if ours.replicates != PATIENTS else found
    if found == OUTSIDE and ours.replicates == TRAINING and ours.own_low <= value <= ours.own_high:
        told += "; within the runs' own intervals over test patients"
    return told


def where_text(known: Published) -> str:
    """The cells that a published number is about: ``BiomedCLIP, ham10000, linear probe``."""
    named = ((name, value if isinstance(value, (list, tuple)) else [value]) for name, value in known.where.items())
    return ", ".join(
        " or ".join(field_value(name, str(one)) for one in values) for name, values in named if name != "task"
    )
