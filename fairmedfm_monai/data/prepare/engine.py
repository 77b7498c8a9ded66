"""From a release folder to a dataset folder: read, check, convert, verify, and only then write manifest and card."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

import fairmedfm_monai
from fairmedfm_monai.data.card import CARD_FILE, Card
from fairmedfm_monai.data.folder_listing import FolderListing
from fairmedfm_monai.data.manifest import MANIFEST_FILES, SPLITS, check_manifest, write_manifest
from fairmedfm_monai.data.prepare.convert import JOURNAL, make_files, verified
from fairmedfm_monai.data.prepare.counts import count_lines, counts, unknown_reasons, version_line
from fairmedfm_monai.data.prepare.folders import check_release
from fairmedfm_monai.data.prepare.made import Made
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.problems import DatasetError, Problem, examples, raise_errors
from fairmedfm_monai.data.splits import split_patients

LINK = "source"
PROVENANCE = "provenance.json"
LEFT_OUT = "left_out.csv"
_WORK = ".prepare"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What was prepared.

    Attributes:
        folder: the dataset folder.
        summary: lines to print: counts beside the expected ones, unknown values, notes.
    """

    folder: Path
    summary: tuple[str, ...]


def prepare_dataset(
    dataset: PublicDataset,
    source: str | Path,
    output: str | Path,
    *,
    choice: Choice | None = None,
    incomplete: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Prepared:
    """Prepare a release.

    Images are referenced through the symbolic link ``source`` in the dataset folder; only those of a format that a
    dataset folder cannot hold are converted. The folder becomes usable in the last step, so a run that was killed
    leaves no half dataset, and the next run goes on where it stopped.

    Args:
        dataset: the dataset.
        source: its release, as the owner ships it.
        output: the dataset folder to make; may hold an unfinished preparation of the same choice.
        choice: rule, protocol and seed; by default the first rule.
        incomplete: leave out, count and list cases whose files are missing or damaged instead of stopping.
        workers: processes that convert; by default as many as there are cores.
        progress: show a bar on stderr.

    Raises:
        DatasetError: wrong folder, values that the card does not map, missing or damaged files: all problems at once.
        FileExistsError: the output holds another dataset, or another process prepares it right now.
        OSError: the output cannot be written.
    """
    choice = choice or dataset.choose()
    root = check_release(source, dataset.needs, dataset.layout)
    card = Card.from_dict(dataset.full_card(choice), where=f"card of {dataset.name}")
    settings = {"dataset": dataset.name, "rule": choice.rule, "protocol": choice.protocol, "seed": choice.seed}
    release = dataset.read(root, choice)
    told = {"notice": release.notice, "labels": dict(release.labels)}
    if any(told.values()):
        replaced = {key: value for key, value in told.items() if value}
        card = Card.from_dict({**card.to_dict(), **replaced}, where=f"card of {dataset.name}")
    return write_folder(
        release, card, root, output, settings=settings, incomplete=incomplete, workers=workers, progress=progress
    )


def write_folder(
    release: Release,
    card: Card,
    root: Path,
    output: str | Path,
    *,
    settings: Mapping[str, Any],
    incomplete: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Prepared:
    """Make the dataset folder of a release that has been read; see `prepare_dataset`.

    Args:
        release: its rows.
        card: its card.
        root: absolute folder that the rows' paths are relative to.
        output: the dataset folder to make.
        settings: what the user chose, as JSON holds it; kept in the folder. ``seed``, where there is one, is that of
            the split.
        incomplete: as in `prepare_dataset`.
        workers: as in `prepare_dataset`.
        progress: as in `prepare_dataset`.
    """
    table = _with_splits(release.table, card, seed=int(settings.get("seed", 0)))
    raise_errors(root, check_manifest(table, card, strict=True))
    table, left_out = _present(table, root, incomplete=incomplete)
    folder = Path(output).expanduser().absolute()
    _open_folder(folder, settings, root)
    try:
        with FileLock(str(folder / _WORK / "lock"), timeout=0):
            damaged = _convert(table, root, folder, workers=workers or os.cpu_count() or 1, progress=progress)
            table, damaged_out = _without(table, damaged, root, incomplete=incomplete)
            left_out = pd.concat([left_out, damaged_out])
            return _finish(folder, card, _in_folder(table), left_out, release, settings, _hashes(table, root, folder))
    except Timeout as error:
        msg = f"{folder}: another process prepares this folder right now"
        raise FileExistsError(msg) from error


def _with_splits(table: pd.DataFrame, card: Card, *, seed: int) -> pd.DataFrame:
    if "split" in table:
        return table
    truth = [name for name in ("label", *card.classes) if name in table]
    stratify = [*truth, *dict.fromkeys(entry.column for entry in card.attributes.values() if not entry.bins)]
    return split_patients(table, seed=seed, stratify=stratify)


def _file_columns(table: pd.DataFrame) -> list[str]:
    return [name for name in ("image", "mask") if name in table]


def _present(table: pd.DataFrame, root: Path, *, incomplete: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows whose files are in the release, and the others with the reason."""
    columns = [table[name].map(_inputs) for name in _file_columns(table)]
    listing = FolderListing(root, {path for column in columns for inputs in column for path in inputs})
    raise_errors(root, listing.problems())
    missing: dict[Any, str] = {}
    for column in columns:
        for index, inputs in column.items():
            gone = next(filter(listing.lacks, inputs), None)
            if gone is not None:
                missing.setdefault(index, gone)
    if missing and (not incomplete or len(missing) == len(table)):
        message = (
            f"{len(missing)} of {len(table)} cases lack files of the release: {examples(missing.values())}. "
            "Complete the download, or leave these cases out with --incomplete"
        )
        raise DatasetError(root, [Problem("missing_file", message)])
    out = table.loc[list(missing), ["case_id"]].assign(reason=[f"{path} is missing" for path in missing.values()])
    return table.drop(index=list(missing)), out


def _inputs(cell: Made | str) -> tuple[str, ...]:
    """Paths in the release that a file comes from; the release folder itself is known to be there."""
    inputs = cell.inputs if isinstance(cell, Made) else (cell,)
    return tuple(path for path in inputs if os.path.normpath(path) != os.curdir)


def _open_folder(folder: Path, settings: Mapping[str, Any], root: Path) -> None:
    """Make the folder, or check that it holds an unfinished or finished preparation of the same choice."""
    state = folder / _WORK / "settings.json"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        held = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else None
        if held != settings:
            what = f"the preparation {held}" if held else "something else"
            msg = f"{folder} holds {what}; delete it or choose another `output` for {dict(settings)}"
            raise FileExistsError(msg)
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text(json.dumps(settings), encoding="utf-8")
    link = folder / LINK
    if link.is_symlink() and Path(os.readlink(link)) != root:
        link.unlink()
    if not link.is_symlink():
        try:
            link.symlink_to(root, target_is_directory=True)
        except OSError as error:
            msg = f"{link}: this file system takes no symbolic links ({error.strerror}); choose another `output`"
            raise OSError(error.errno, msg) from error


def _convert(table: pd.DataFrame, root: Path, folder: Path, *, workers: int, progress: bool) -> dict[str, str]:
    wanted = [cell for name in _file_columns(table) for cell in table[name] if isinstance(cell, Made)]
    if not wanted:
        return {}
    journal = folder / _WORK / JOURNAL
    return make_files(wanted, source=root, folder=folder, journal=journal, workers=workers, progress=progress)


def _without(
    table: pd.DataFrame, damaged: Mapping[str, str], root: Path, *, incomplete: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows whose files could be made, and the others with the reason."""
    reasons: dict[Any, str] = {}
    for name in _file_columns(table):
        for index, cell in table[name].items():
            if isinstance(cell, Made) and cell.target in damaged:
                reasons.setdefault(index, f"{', '.join(cell.inputs)}: {damaged[cell.target]}")
    if reasons and (not incomplete or len(reasons) == len(table)):
        message = (
            f"{len(reasons)} of {len(table)} cases cannot be converted: {examples(reasons.values())}. The others are "
            "done and kept: fetch these files again and run once more, or leave these cases out with --incomplete"
        )
        raise DatasetError(root, [Problem("damaged", message)])
    out = table.loc[list(reasons), ["case_id"]].assign(reason=list(reasons.values()))
    return table.drop(index=list(reasons)), out


def _hashes(table: pd.DataFrame, root: Path, folder: Path) -> dict[str, str]:
    """Target -> SHA-256 of every converted file, read back from the disk.

    Raises:
        DatasetError: a file that is not there, or not as it was made.
    """
    wanted = [cell for name in _file_columns(table) for cell in table[name] if isinstance(cell, Made)]
    found = verified(wanted, source=root, folder=folder, journal=folder / _WORK / JOURNAL)
    lost = sorted({made.target for made in wanted} - set(found))
    if lost:
        message = f"{len(lost)} converted files are not as they were written: {examples(lost)}. Run again"
        raise DatasetError(folder, [Problem("changed_file", message)])
    return found


def _in_folder(table: pd.DataFrame) -> pd.DataFrame:
    """The manifest: paths inside the dataset folder."""
    result = table.copy()
    for name in _file_columns(table):
        result[name] = [cell.target if isinstance(cell, Made) else f"{LINK}/{cell}" for cell in table[name]]
    first = ["case_id", "patient_id", "split", *_file_columns(table)]
    return result[[*first, *(name for name in result if name not in first)]]


def split_hash(table: pd.DataFrame) -> str:
    """SHA-256 of who is in which split; equal for equal splits, whatever the order of the rows."""
    rows = sorted(f"{case} {split}" for case, split in zip(table["case_id"], table["split"], strict=True))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _finish(
    folder: Path,
    card: Card,
    table: pd.DataFrame,
    left_out: pd.DataFrame,
    release: Release,
    settings: Mapping[str, Any],
    hashes: Mapping[str, str],
) -> Prepared:
    found = counts(table, card)
    unknown = unknown_reasons(table, card)
    notes = [*release.notes, *([f"{len(left_out)} cases left out, see {LEFT_OUT}"] if len(left_out) else [])]
    provenance = {
        **settings,
        "software": f"fairmedfm-monai {fairmedfm_monai.__version__}",
        "version": release.version,
        "counts": found,
        "expected": dict(release.expected),
        "unknown": unknown,
        "notes": notes,
        "split_sha256": split_hash(table),
        "converted": dict(sorted(hashes.items())),
    }
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    if len(left_out):
        left_out.to_csv(folder / LEFT_OUT, index=False, lineterminator="\n")
    write_manifest(table, folder / MANIFEST_FILES[0])
    card.write(folder / CARD_FILE)
    summary = [version_line(found, release.expected, release.version, notes), *count_lines(found, release.expected)]
    for name, reasons in unknown.items():
        summary.append(f"  {name}: unknown because " + ", ".join(f"{why} ({n:,})" for why, n in reasons.items()))
    summary += [f"  note: {note}" for note in notes]
    splits = ", ".join(f"{name} {found[f'split/{name}']:,}" for name in SPLITS)
    summary.append(f"  splits: {splits} (sha256 {provenance['split_sha256'][:12]})")
    return Prepared(folder=folder, summary=tuple(summary))
