"""From users' rows to a dataset folder, by the same engine as the public datasets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairmedfm_monai.data.card import CARD_FILE, Card
from fairmedfm_monai.data.files import check_paths
from fairmedfm_monai.data.headers import mask_values
from fairmedfm_monai.data.own.cards import Draft, draft_card
from fairmedfm_monai.data.own.rows import OwnRows
from fairmedfm_monai.data.own.spellings import slug
from fairmedfm_monai.data.own.wishes import Wishes
from fairmedfm_monai.data.prepare.engine import Prepared, write_folder
from fairmedfm_monai.data.prepare.made import Made
from fairmedfm_monai.data.prepare.spec import Release
from fairmedfm_monai.data.problems import DatasetError, Problem, raise_errors
from fairmedfm_monai.data.splits import split_patients

_FEWEST = 3  # patients: one per split
_CHOOSE_LATER = (
    "edit prompts and groups there (the manifest holds the raw values of attributes, so nothing has to be prepared "
    "again), then delete its notice"
)


def prepare_rows(
    rows: OwnRows,
    wishes: Wishes,
    source: Path,
    output: str | Path,
    *,
    settings: Mapping[str, Any],
    incomplete: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Prepared:
    """Make a card, then the dataset folder.

    Args:
        rows: the data.
        wishes: what the user said of the card.
        source: absolute folder that the rows' paths are relative to; linked, not copied.
        output: dataset folder to make.
        settings: what the user chose, as JSON holds it; kept in the folder. ``seed`` is that of the split.
        incomplete: leave out cases whose files are missing or damaged.
        workers: processes that convert.
        progress: show a bar on stderr.

    Raises:
        DatasetError: something that the user must decide, or files that are missing, damaged or of a foreign kind.
        FileExistsError: the output holds something else, or a card that was edited.
        OSError: the output cannot be written.
    """
    folder = Path(output).expanduser().absolute()
    _check_masks(rows, wishes, source)
    draft = draft_card(rows, wishes, name=slug(folder.name) or "own", where=source)
    card = Card.from_dict(draft.card, where=f"{CARD_FILE} to be written")
    _check_rows(draft, source)
    _keep_edits(folder, draft)
    draft = _hidden(draft, rows, seed=int(settings.get("seed", 0)))
    release = Release(
        table=draft.table, version=f"your own data (prepare {rows.kind})", notes=(*rows.notes, *draft.notes)
    )
    made = write_folder(
        release, card, source, folder, settings=settings, incomplete=incomplete, workers=workers, progress=progress
    )
    told = ["what became of each column", *(f"  {line}" for line in draft.lines)]
    review = f"review {made.folder / CARD_FILE}: {_CHOOSE_LATER}"
    return replace(made, summary=(*made.summary, *told, review))


def _check_masks(rows: OwnRows, wishes: Wishes, source: Path) -> None:
    """Ask for the names of the labels, with the values that a mask holds."""
    if "mask" not in rows.table or wishes.labels:
        return
    first = next((cell for cell in rows.table["mask"] if cell and (source / cell).is_file()), "")
    values = sorted(mask_values(source / first) - {0.0}) if first else []
    held = f"; {first} holds {', '.join(f'{value:g}' for value in values) or 'nothing'} beside 0" if first else ""
    example = ",".join(f"NAME={value:g}" for value in values[:3]) or "lesion=1"
    message = f'say what the values of the masks are: `--labels "{example}"`{held}'
    raise DatasetError(source, [Problem("labels", message)])


def _check_rows(draft: Draft, source: Path) -> None:
    """Paths that no dataset folder can name, and too few patients to split."""
    cells = draft.table[[name for name in ("image", "mask") if name in draft.table]]
    plain = cells[~cells.map(lambda cell: isinstance(cell, Made)).any(axis=1)]
    # Missing files are the engine's: it can leave them out.
    problems = [problem for problem in check_paths(plain, source) if problem.kind != "missing_file"]
    patients = draft.table["patient_id"].nunique()
    if "split" not in draft.table and patients < _FEWEST:
        message = (
            f"{len(draft.table)} cases are of {patients} patients, and train, val and test need one each; is it the "
            "right column? (A `split` column may say who is where)"
        )
        problems.append(Problem("patients", message))
    raise_errors(source, problems)


def _keep_edits(folder: Path, draft: Draft) -> None:
    """Refuse to overwrite a card that somebody has edited."""
    file = folder / CARD_FILE
    if not file.is_file():
        return
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        held = None
    if held != draft.card:
        msg = (
            f"{file} is not as it would be written now: it was edited, or data or options changed. Choose another "
            "`output`, or delete this folder"
        )
        raise FileExistsError(msg)


def _hidden(draft: Draft, rows: OwnRows, *, seed: int) -> Draft:
    """The rows with pseudonyms for patients; split before, as the pseudonyms differ from machine to machine."""
    if rows.pseudonym is None:
        return draft
    table = draft.table
    if "split" not in table:
        truth = [name for name in ("label", *draft.card.get("classes", {})) if name in table]
        groups = [name for name, entry in draft.card["attributes"].items() if not entry.get("bins")]
        table = split_patients(table, seed=seed, stratify=[*truth, *groups])
    return replace(draft, table=table.assign(patient_id=table["patient_id"].map(rows.pseudonym)))
