from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairmedfm_monai.bundle.render import bundle_names, render_bundle

CHECKED_IN = Path(__file__).parents[2] / "bundles"

OVERRIDABLE = {
    *("dataset_dir", "output_dir", "ckpt_dir", "checkpoint", "weights", "variant", "device", "seed", "batch_size"),
    *("num_workers", "amp", "tracking_uri", "experiment_name", "run_name"),
}


@pytest.mark.parametrize("name", bundle_names())
def test_the_bundle_checked_in_is_the_rendered_one(name: str, tmp_path: Path) -> None:
    rendered = render_bundle(name, tmp_path)
    files = {path.relative_to(rendered) for path in rendered.rglob("*") if path.is_file()}
    for relative in files:
        assert (CHECKED_IN / name / relative).read_text(encoding="utf-8") == (rendered / relative).read_text(
            encoding="utf-8"
        ), f"{name}/{relative} differs: run python scripts/render_bundles.py"


def test_no_bundle_is_left_over() -> None:
    assert sorted(path.name for path in CHECKED_IN.iterdir() if path.is_dir()) == bundle_names()


@pytest.mark.parametrize("name", bundle_names())
def test_every_configuration_stands_alone_and_has_the_common_keys(name: str) -> None:
    for path in sorted((CHECKED_IN / name / "configs").glob("*.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        if path.stem in {"metadata", "multi_gpu_train", "multi_gpu_evaluate"}:
            continue
        assert set(config) >= OVERRIDABLE, path
        expected = {
            "train": {"attributes", "epochs", "val_interval", "learning_rate", "select_by", "patience", "resume"},
            "evaluate": {"attributes", "overwrite", "split", "operating_point", "n_bootstrap", "log_cases"},
            "inference": {"split"},
        }
        assert set(config) >= expected[path.stem], path


@pytest.mark.parametrize("name", bundle_names())
def test_nothing_in_a_bundle_belongs_to_a_machine(name: str) -> None:
    for path in (CHECKED_IN / name).rglob("*"):
        if path.is_file() and path.name != "LICENSE":
            text = path.read_text(encoding="utf-8")
            assert "/work" not in text
            assert "/home" not in text


def test_an_unknown_bundle_gets_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean sam_segmentation_prompted"):
        render_bundle("sam_segmentation_promted", tmp_path)
