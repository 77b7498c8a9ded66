"""The plan of a study as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from fairmedfm_monai.catalog.matrix import aligned
from fairmedfm_monai.studies.cells import method_of, not_offered, study_cells
from fairmedfm_monai.studies.plan import DONE, LEFT_OUT, NOT_OFFERED, RUNNABLE, STATUSES, PlannedCell
from fairmedfm_monai.studies.sources import facts_of
from fairmedfm_monai.studies.spec import Study

BASIS = (
    "estimate: images x seconds per image, from the number of parameters and a rate measured on one machine "
    "(right to about a factor of two; see fairmedfm_monai.studies.cost); each FM encodes a dataset once; "
    "nothing for done cells"
)

_SHOWN = 3  # methods that a line of the plan names


def plan_lines(study: Study, plan: Sequence[PlannedCell], *, jobs: int = 1) -> Iterator[str]:
    """What is planned: a line per dataset, FM and usage (but those left out), then counts, reasons, cost, choices."""
    yield study.title
    if study.paper:
        yield f"follows: {study.paper}"
    yield ""
    yield from aligned([["dataset", "FM", "usage", "methods", "seeds", "cells", "CPU"], *_groups(plan)])
    yield ""
    counts = Counter(planned.status for planned in plan)
    told = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    yield f"{len(plan)} cells: {told or 'none'}"
    yield from _reasons(plan)
    yield from _cost(plan, jobs)
    yield from _choices(study)


def _groups(plan: Sequence[PlannedCell]) -> Iterator[list[str]]:
    grouped: dict[tuple[str, ...], list[PlannedCell]] = {}
    for planned in plan:
        dataset, model, usage = planned.cell.key.split("/")[:3]
        grouped.setdefault((dataset, model, usage), []).append(planned)
    for names, members in grouped.items():
        if all(planned.status == LEFT_OUT for planned in members):
            continue
        methods = list(dict.fromkeys(method_of(planned.cell) for planned in members))
        more = [f"and {len(methods) - _SHOWN} more"] if len(methods) > _SHOWN else []
        seeds = sorted({planned.cell.seed for planned in members})
        counts = Counter(planned.status for planned in members)
        statuses = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
        seconds = sum(planned.seconds for planned in members)
        told = ", ".join([*methods[:_SHOWN], *more])
        yield [*names, told, ",".join(map(str, seeds)), statuses, duration(seconds) if seconds else "-"]


def _reasons(plan: Sequence[PlannedCell]) -> Iterator[str]:
    """Every reason once, with its number of cells."""
    counts = Counter((planned.status, planned.reason) for planned in plan if planned.reason)
    for status in STATUSES:
        for (found, reason), count in counts.items():
            if found == status and status != LEFT_OUT:
                yield f"  {status}: {reason}" + (f" ({count} cells)" if count > 1 else "")


def _cost(plan: Sequence[PlannedCell], jobs: int) -> Iterator[str]:
    now = sum(planned.seconds for planned in plan if planned.status in RUNNABLE)
    blocked = sum(planned.seconds for planned in plan if planned.status not in (*RUNNABLE, DONE, NOT_OFFERED, LEFT_OUT))
    yield ""
    shared = f", about {duration(now / jobs)} with {jobs} jobs" if jobs > 1 else ""
    yield f"cost of what can run now: {duration(now)} of one CPU core{shared}"
    if blocked:
        yield f"cost of what lacks data or weights: {duration(blocked)} more"
    yield f"({BASIS})"


def _choices(study: Study) -> Iterator[str]:
    if study.ours:
        yield ""
        yield "choices that were not published (ours; such rows reproduce nothing):"
        for choice in study.ours:
            yield f"  {choice.what}: {choice.value}" + (f" ({choice.why})" if choice.why else "")


def duration(seconds: float) -> str:
    """Seconds for people: ``40 s``, ``12 min``, ``3.5 h`` or ``1,200 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def study_line(study: Study) -> str:
    """One line of the list of studies."""
    cells = study_cells(study)
    offered = sum(not not_offered(cell, facts_of(study.datasets[cell.dataset])) for cell in cells)
    models, datasets = len({cell.fm for cell in cells}), len(study.datasets)
    return f"{study.name:12} {study.title}: {offered} cells ({models} FMs, {datasets} datasets)"
