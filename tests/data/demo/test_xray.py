from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fairmedfm_monai.data.dataset import load_dataset
from fairmedfm_monai.data.demo.radiograph import Projector
from fairmedfm_monai.data.demo.scan import Scan
from fairmedfm_monai.data.demo.xray import PROMPTS, make_xray

SIZES = {"n_train": 12, "n_val": 6, "n_test": 24}
Make = Callable[..., Path]
Digests = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, phantom: Scan, projector: Projector) -> Make:
    def of(**options: object) -> Path:
        folder = tmp_path_factory.mktemp("xray") / "set"
        return make_xray(folder, scan=phantom, projector=projector, **{**SIZES, **options})  # type: ignore[arg-type]

    return of


@pytest.fixture(scope="module")
def degraded(make: Make) -> Path:
    return make()


def test_the_folder_loads_without_a_warning(degraded: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        info = load_dataset(degraded)
    assert (info.name, info.task, info.modality, info.spatial_dims, info.unit) == (
        "demo-xray",
        "classification",
        "xray",
        2,
        "patient",
    )
    assert info.classes == ["no_finding", "finding"]
    assert info.positive_class == "finding"
    assert info.attributes == {"sex": ["female", "male"], "age": ["lt60", "ge60"], "race": ["white", "black", "asian"]}
    assert info.intersections == [["sex", "age"]]
    assert info.table["split"].value_counts().to_dict() == {"train": 12, "val": 6, "test": 24}
    test = info.table[info.table["split"] == "test"]
    assert test.groupby("sex")["label"].agg(["size", "sum"]).to_numpy().tolist() == [[12, 4], [12, 4]]


def test_the_card_says_what_the_images_are(degraded: Path) -> None:
    card = json.loads((degraded / "dataset.json").read_text(encoding="utf-8"))
    assert "semi-synthetic, one anatomy: measures plumbing, not generalisation" in card["notice"]
    assert "phantom" in card["notice"]
    assert card["licence"].startswith("Apache-2.0")
    assert card["classes"] == PROMPTS
    assert all(len(prompts) > 1 for prompts in PROMPTS.values())


def test_images_are_eight_bit_grey(degraded: Path) -> None:
    files = sorted((degraded / "images").iterdir())
    assert len(files) == 42
    image = Image.open(files[0])
    assert (image.size, image.mode, image.format) == ((128, 128), "L", "PNG")


def test_the_same_seed_gives_the_same_bytes(degraded: Path, make: Make, digests: Digests) -> None:
    assert digests(make()) == digests(degraded)
    other = digests(make(seed=1))
    assert not set(other.values()) & {value for key, value in digests(degraded).items() if key.endswith("png")}


def test_degrading_touches_one_sex_only(degraded: Path, make: Make, digests: Digests) -> None:
    control = make(strength=0)
    assert digests(control) == digests(make(bias="none"))
    before, after = digests(control), digests(degraded)
    rows = pd.read_csv(degraded / "manifest.csv")
    changed = np.array([before[path] != after[path] for path in rows["image"]])
    assert np.array_equal(changed, rows["sex"] == "female")
    details = pd.read_csv(degraded / "details.csv")
    assert np.array_equal(details["degraded"] == 1, rows["sex"] == "female")


def test_details_know_each_nodule(degraded: Path) -> None:
    rows, details = pd.read_csv(degraded / "manifest.csv"), pd.read_csv(degraded / "details.csv")
    assert rows["case_id"].tolist() == details["case_id"].tolist()
    assert np.array_equal(details["radius_mm"].notna(), rows["label"] == "finding")
    assert set(details["side"].dropna()) <= {"left", "right"}


def test_the_shortcut_at_full_strength(make: Make) -> None:
    folder = make(bias="shortcut", strength=1.0, n_train=40)
    rows = pd.read_csv(folder / "manifest.csv").merge(pd.read_csv(folder / "details.csv"), on="case_id")
    expected = (rows["label"] == "finding") == (rows["sex"] == "male")
    assert np.array_equal(rows["marker"] == 1, expected)
    assert (rows[rows["split"] == "train"]["sex"] == "female").mean() == pytest.approx(0.2)
    assert (rows[rows["split"] == "test"]["sex"] == "female").mean() == pytest.approx(0.5)
    marked = rows[rows["marker"] == 1]["image"].iloc[0]
    assert np.asarray(Image.open(folder / marked))[18, 115] == 255


def test_a_failing_build_leaves_no_folder(tmp_path: Path, phantom: Scan) -> None:
    class Broken:
        def image(self, *_: object, **__: object) -> None:
            msg = "no image today"
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="no image today"):
        make_xray(tmp_path / "set", scan=phantom, projector=Broken(), **SIZES)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
