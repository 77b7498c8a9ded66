"""Checks of the files that a manifest names: there, of a known kind and, when opened, whole and on one grid."""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from fairmedfm_monai.data.card import Card
from fairmedfm_monai.data.case_files import Finding, Rules
from fairmedfm_monai.data.file_workers import TIMEOUT, check_cases, default_workers
from fairmedfm_monai.data.folder_listing import FolderListing, is_outside
from fairmedfm_monai.data.headers import FORMATS, foreign_suffix
from fairmedfm_monai.data.manifest import EMPTY_CELLS
from fairmedfm_monai.data.problems import SHOWN, Problem, examples

_WORDING = {
    "unreadable": ("error", "{n} files cannot be read: {list}"),
    "dims": ("error", "{n} of {total} images have not the card's number of `spatial_dims`: {list}"),
    "geometry": ("error", "{n} of {total} masks do not lie on the grid of their image: {list}"),
    "mask_channels": ("error", "{n} masks have several channels, save them as one channel of label values: {list}"),
    "mask_value": ("warning", "{n} masks hold values that `labels` does not name; they count as background: {list}"),
}
_LOG_INTERVAL = 30.0  # seconds between updates of a progress bar that goes into a file


def check_paths(table: pd.DataFrame, root: Path) -> list[Problem]:
    """Whether every image and mask is a relative path inside the folder, of a kind that can be read, and is there.

    Nothing is opened; folders are listed. Paths may go through symbolic links in the folder.
    """
    columns = {name: _paths(table[name]) for name in ("image", "mask") if name in table}
    inside = {name: [path for path in paths if not is_outside(path)] for name, paths in columns.items()}
    listing = FolderListing(root, [path for paths in inside.values() for path in paths])
    problems = listing.problems()
    for name, paths in columns.items():
        problems += _outside(name, paths) + _foreign(name, paths)
        missing = [path for path in inside[name] if listing.lacks(path)]
        if missing:
            message = f"{len(missing)} of {len(paths)} files of column {name!r} are missing: {examples(missing)}"
            problems.append(Problem("missing_file", message + listing.hint(missing)))
    return problems


def _paths(column: pd.Series) -> list[str]:
    return [path for path in column if path not in EMPTY_CELLS]


def _outside(name: str, paths: list[str]) -> list[Problem]:
    found = sorted({path for path in paths if is_outside(path)})
    message = (
        f"column {name!r} must hold paths inside the folder, but got {examples(found)}; for files that lie elsewhere "
        "make a link in the folder (ln -s /elsewhere source) and write source/..."
    )
    return [Problem("path", message)] if found else []


def _foreign(name: str, paths: list[str]) -> list[Problem]:
    found = [path for path in paths if foreign_suffix(path)]
    kinds = ", ".join(f"{kind} ({count})" for kind, count in Counter(map(foreign_suffix, found)).most_common())
    message = (
        f"column {name!r} names files of kinds that are not read here, {kinds}: {examples(found)}. Readable are "
        f"{FORMATS}; convert them first (`python -m fairmedfm_monai prepare` does it for public releases)"
    )
    return [Problem("file_kind", message)] if found else []


def check_files(
    table: pd.DataFrame,
    card: Card,
    root: Path,
    *,
    workers: int | None = None,
    timeout: float = TIMEOUT,
    progress: bool = False,
) -> list[Problem]:
    """Open every file that is there: header, wholeness, grid of mask and image, values of masks.

    Files are opened in processes of their own. One that crashes its decoder or takes too long is a finding like any
    other. Ctrl-C ends the work; what was found until then is returned, with a problem that says so.

    Args:
        table: the manifest, one row per case.
        card: the dataset card.
        root: the dataset folder.
        workers: number of processes; by default one per core that may be used, 16 at most.
        timeout: seconds after which a case is given up.
        progress: show a bar on stderr.
    """
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        msg = f"`workers` must be a whole number from 1 on, but got {workers!r}"
        raise ValueError(msg)
    pairs = _pairs(table, card)
    rules = Rules(card.spatial_dims, tuple(float(value) for value in card.labels.values()))
    count = max(1, min(workers or default_workers(), len(pairs)))
    tally = _Tally(len(pairs))
    interval = 0.1 if sys.stderr.isatty() else _LOG_INTERVAL
    bar = tqdm(total=len(pairs), desc="opening", unit="case", mininterval=interval, disable=not progress)
    with bar, closing(check_cases(pairs, root, rules, workers=count, timeout=timeout)) as results:
        try:
            for index, findings in results:
                tally.add(index, findings)
                bar.update()
        except KeyboardInterrupt:
            tally.interrupted = True
    return tally.problems()


def _pairs(table: pd.DataFrame, card: Card) -> list[tuple[str, str]]:
    """Image and mask per row, empty where there is none that may be opened; rows without both are left out."""
    if "image" not in table:
        return []
    with_masks = card.task == "segmentation" and "mask" in table
    columns = [table["image"], table["mask"] if with_masks else [""] * len(table)]
    openable = [["" if path in EMPTY_CELLS or is_outside(path) else path for path in column] for column in columns]
    return [(image, mask) for image, mask in zip(*openable, strict=True) if image or mask]


class _Tally:
    """Counts of findings with the first examples of each kind, in the order of the table whatever came first."""

    def __init__(self, total: int) -> None:
        self.interrupted = False
        self._total = total
        self._done = 0
        self._counts: Counter[str] = Counter()
        self._first: dict[str, list[tuple[int, str]]] = {}

    def add(self, index: int, findings: list[Finding]) -> None:
        self._done += 1
        for kind, text in findings:
            self._counts[kind] += 1
            self._first[kind] = heapq.nsmallest(SHOWN, [*self._first.get(kind, []), (index, text)])

    def problems(self) -> list[Problem]:
        problems = []
        for kind, (level, words) in _WORDING.items():
            if self._counts[kind]:
                shown = examples([text for _, text in self._first[kind]], self._counts[kind])
                problems.append(Problem(kind, words.format(n=self._counts[kind], total=self._total, list=shown), level))
        if self.interrupted:
            message = f"stopped by the user after {self._done} of {self._total} cases: the others were not opened"
            problems.append(Problem("interrupted", message))
        return problems
