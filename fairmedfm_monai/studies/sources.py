"""Where the images of a study's datasets are, or how they are come by."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fairmedfm_monai.data.card import CARD_FILE
from fairmedfm_monai.data.manifest import SPLITS, find_manifest
from fairmedfm_monai.data.problems import DatasetError
from fairmedfm_monai.studies.spec import Dataset

if TYPE_CHECKING:
    from fairmedfm_monai.data.prepare import PublicDataset
    from fairmedfm_monai.data.prepare.spec import Choice

SPLIT_SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
"""Shares of the cases where no folder tells."""


SUBSETS = {("nih_chestxray14", "six_diseases"): 1200, ("tusc", "nodule"): 860}
"""Cases of label rules whose number is not the first one in the size of the release."""


@dataclass(frozen=True)
class Facts:
    """What is known of a dataset without its folder.

    Attributes:
        task: ``classification`` or ``segmentation``.
        modality: as on the card.
        spatial_dims: 2 for images, 3 for volumes.
        sizes: split -> cases.
        biases: biases that a demo set can have.
        multi_class: several classes of which a case has one.
    """

    task: str
    modality: str
    spatial_dims: int
    sizes: Mapping[str, int]
    biases: tuple[str, ...] = ()
    multi_class: bool = False


_CT_BIASES = ("degrade", "none")
DEMOS = {
    "xray": Facts(
        *("classification", "xray", 2, {"train": 900, "val": 300, "test": 1200}), biases=("degrade", "shortcut", "none")
    ),
    "ct2d": Facts("segmentation", "ct", 2, {"train": 120, "val": 80, "test": 240}, biases=_CT_BIASES),
    "ct3d": Facts("segmentation", "ct", 3, {"train": 8, "val": 4, "test": 12}, biases=_CT_BIASES),
    "ct-nodules": Facts("classification", "ct", 3, {"train": 16, "val": 8, "test": 16}, biases=_CT_BIASES),
}
"""The demo sets, with the numbers of cases that their makers default to."""


@dataclass(frozen=True)
class Source:
    """Where one dataset is.

    Attributes:
        folder: its folder, there or to be.
        status: ``ready``, ``to be made`` (a demo set that :func:`make_source` makes) or ``no data``.
        advice: of ``no data``, what to do.
        sizes: split -> cases, counted where the folder is there, else of the release or of the demo set.
        counted: whether they were counted.
        content: hash of manifest and card, or of the recipe where there is no folder yet.
        recipe: of a demo set, the arguments of its maker; empty for a built-in set.
    """

    folder: Path
    status: str
    advice: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    counted: bool = False
    content: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)


def facts_of(dataset: Dataset) -> Facts:
    """What is known of a dataset without its folder.

    Raises:
        ValueError: for options that its release does not have.
    """
    if dataset.demo is not None:
        default = DEMOS[dataset.demo]
        sizes = {split: int(dataset.options.get(f"n_{split}", count)) for split, count in default.sizes.items()}
        return Facts(default.task, default.modality, default.spatial_dims, sizes, default.biases)
    public, choice = _release(dataset)
    card = public.full_card(choice)
    several = len(card.get("classes", {})) > 2 and not card.get("multi_label", False)
    cases = SUBSETS.get((public.name, choice.rule)) or published_size(public.size)
    sizes = {split: round(share * cases) for split, share in SPLIT_SHARES.items()}
    return Facts(card["task"], card["modality"], card["spatial_dims"], sizes, multi_class=several)


def published_size(text: str) -> int:
    """The first number of a release's size in words, e.g. 112120 of ``112,120 images of 30,805 patients``."""
    first = text.split(maxsplit=1)[0].replace(",", "")
    return int(first) if first.isdigit() else 0


def find_source(slug: str, dataset: Dataset, *, data: Path | None, output: Path, seed: int) -> Source:
    """Where a dataset is. Nothing is made or downloaded.

    Args:
        slug: of the dataset in the study.
        dataset: the dataset.
        data: folder of prepared releases, one folder per slug; None where there are none.
        output: folder of the study; its own demo sets lie below.
        seed: of the cell; it matters for data that are made per seed.
    """
    if dataset.demo is None:
        return _find_release(slug, dataset, data)
    recipe = _recipe(dataset, seed)
    folder = _built_in(dataset.demo) if not recipe else _made(slug, dataset, recipe, output)
    if (folder / CARD_FILE).is_file():
        return Source(folder, "ready", sizes=_sizes(folder), counted=True, content=_content(folder), recipe=recipe)
    return Source(folder, "to be made", sizes=facts_of(dataset).sizes, content=_text_hash(folder.name), recipe=recipe)


def make_source(dataset: Dataset, source: Source) -> Path:
    """Make a demo set that is ``to be made``; processes that ask at once make it once.

    Returns:
        Its folder; where the CT cannot be had, that of the built-in set made from the phantom.
    """
    from filelock import FileLock

    from fairmedfm_monai.data.demo import ensure_demo, load_scan
    from fairmedfm_monai.data.demo.build import MAKERS, SCAN_VARIABLE
    from fairmedfm_monai.data.demo.phantom import make_phantom

    if not source.recipe:
        return ensure_demo(f"demo/{dataset.demo}")
    source.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(source.folder.parent / f".{source.folder.name}.lock")):
        if not source.folder.is_dir():
            scan = make_phantom() if os.environ.get(SCAN_VARIABLE) == "phantom" else load_scan()
            MAKERS[str(dataset.demo)](source.folder, scan=scan, **source.recipe)
    return source.folder


def _release(dataset: Dataset) -> tuple[PublicDataset, Choice]:
    from fairmedfm_monai.data.prepare import find_dataset

    public = find_dataset(str(dataset.release))
    return public, public.choose(**dataset.options)


def _find_release(slug: str, dataset: Dataset, data: Path | None) -> Source:
    public, choice = _release(dataset)
    folder = (data or Path("DATA")) / slug
    options = "".join(f" --{name} {value}" for name, value in dataset.options.items())
    command = f"python -m fairmedfm_monai prepare {public.name} --source RAW --output {folder}{options}"
    told = f"prepare it: {command}" + ("" if data else ", and give --data DATA")
    missing = Source(folder, "no data", told, facts_of(dataset).sizes)
    if data is None or not (folder / CARD_FILE).is_file():
        return missing
    try:
        found = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        wanted = public.full_card(choice)["name"]
        if found.get("name") != wanted:
            other = f"{folder} holds {found.get('name')!r}, but the study needs {wanted!r}: put it elsewhere and {told}"
            return Source(folder, "no data", other, facts_of(dataset).sizes)
        return Source(folder, "ready", sizes=_sizes(folder), counted=True, content=_content(folder))
    except (DatasetError, ValueError, OSError) as error:
        broken = f"{folder} cannot be read ({error}); {told}"
        return Source(folder, "no data", broken, facts_of(dataset).sizes)


def _recipe(dataset: Dataset, seed: int) -> dict[str, Any]:
    """Arguments of the maker that differ from those of the built-in set."""
    own = {"bias": dataset.bias, "strength": dataset.strength, "seed": seed if dataset.per_seed else None}
    return {**dataset.options, **{name: value for name, value in own.items() if value is not None}}


def _built_in(demo: str) -> Path:
    """Folder of the built-in set, that of the CT unless only that of the phantom is there."""
    from fairmedfm_monai.data.demo.build import SCAN_VARIABLE, demo_folder
    from fairmedfm_monai.data.demo.scan import LIDC_PATIENT
    from fairmedfm_monai.data.home import home

    real, phantom = (demo_folder(demo, home(), scan) for scan in (LIDC_PATIENT, "phantom"))
    forced = os.environ.get(SCAN_VARIABLE) == "phantom"
    return phantom if forced or (phantom.is_dir() and not real.is_dir()) else real


def _made(slug: str, dataset: Dataset, recipe: Mapping[str, Any], output: Path) -> Path:
    """A folder whose name holds a key of the recipe, so that changed options never find old images."""
    from fairmedfm_monai.data.demo.build import SCAN_VARIABLE, VERSION

    decisive = {"demo": dataset.demo, "version": VERSION, "recipe": dict(recipe)}
    if os.environ.get(SCAN_VARIABLE) == "phantom":
        decisive["scan"] = "phantom"
    own_seed = f"-seed{recipe['seed']}" if dataset.per_seed else ""
    return output / "data" / f"{slug}{own_seed}-{_text_hash(json.dumps(decisive, sort_keys=True))[:8]}"


def _sizes(folder: Path) -> dict[str, int]:
    """Rows of the manifest per split; rows without one count as ``test``."""
    file = find_manifest(folder)
    read = pd.read_parquet if file.suffix == ".parquet" else pd.read_csv
    table = read(file)
    splits = table["split"] if "split" in table else pd.Series(["test"] * len(table))
    return {split: int((splits == split).sum()) for split in SPLITS}


def _content(folder: Path) -> str:
    """Hash of manifest and card."""
    digest = hashlib.sha256()
    for file in (find_manifest(folder), folder / CARD_FILE):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
