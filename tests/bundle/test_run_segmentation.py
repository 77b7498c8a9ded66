"""Every promptable FM and every usage runs as its users run it, with tiny weights on small phantom data.

The covering set: each FM evaluates and infers untrained, and trains, evaluates and infers in the usage of ``COVERING``;
demo_sam does so in all usages. ``--full`` runs every FM in every usage.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from fairmedfm_monai.bundle.configs.segmentation_samples import PROMPT_FREE, USAGES
from fairmedfm_monai.catalog import Row, rows
from fairmedfm_monai.handlers.click_values import CLICK_COLUMNS
from tests.bundle.runs import copy_bundle, run, tables

FMS = [row for row in rows().values() if row.task == "segmentation"]
COVERING = {
    "demo_sam": USAGES,
    "sam": ("lora",),
    "medsam": ("decoder_finetune",),
    "mobile_sam": ("full_finetune",),
    "tinysam": ("lora_prompted",),
    "ft_sam": ("decoder_finetune",),
    "sam_med2d": ("lora",),
    "sam2": ("decoder_finetune",),
    "medsam2": ("lora_prompted",),
    "sam_med3d": ("lora",),
    "fastsam3d": ("decoder_finetune",),
    "segvol": ("lora_prompted",),
}
TRAINED = [
    pytest.param(row, usage, id=f"{row.name}-{usage}", marks=() if usage in COVERING[row.name] else pytest.mark.full)
    for row in FMS
    for usage in USAGES
]
COMMON = {"weights": "tiny", "n_bootstrap": 0, "split": ["test"]}


@pytest.fixture
def data_of(ct2d_dir: Path, ct3d_dir: Path):
    return lambda row: ct3d_dir if row.is_volumetric else ct2d_dir


@pytest.mark.parametrize("row", FMS, ids=lambda row: row.name)
def test_an_untrained_fm_evaluates_with_one_kind(row: Row, data_of, tracking_uri: str, tmp_path: Path) -> None:
    bundle = copy_bundle(f"{row.name}_segmentation_prompted", tmp_path)
    data = {"dataset_dir": str(data_of(row)), "tracking_uri": tracking_uri}
    extra = {"max_windows": 2} if row.is_volumetric else {}
    run(bundle, "evaluate", **COMMON, **data, **extra, prompts=[row.prompts[0]])
    predictions, subgroups, _ = tables(bundle / "eval")
    manifest = pd.read_csv(data_of(row) / "manifest.csv").query("split == 'test'")
    assert not predictions["failed"].any()
    assert predictions["case_id"].nunique() == len(manifest)
    assert set(predictions["prompt"]) == {row.prompts[0]}
    assert {"dice", "filled_box_dice", "hd95", "nsd"} <= set(subgroups["metric"])
    assert "tiny random weights" in (bundle / "eval" / "report.html").read_text(encoding="utf-8")
    assert "untrained prompt" not in (bundle / "eval" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", FMS, ids=lambda row: row.name)
def test_user_prompts_give_one_label_map_in_the_files_own_grid(
    row: Row, ct3d_dir: Path, tracking_uri: str, tmp_path: Path
) -> None:
    bundle = copy_bundle(f"{row.name}_segmentation_prompted", tmp_path)
    case = pd.read_csv(ct3d_dir / "manifest.csv").query("split == 'test'").iloc[0]
    image = nibabel.load(ct3d_dir / case["image"])
    low, high = ([size * part // 8 for size in image.shape] for part in (3, 5))
    shape = {"coords": [low, high], "point_labels": [2, 3]}
    if "box" not in row.prompts:
        shape = {"coords": [[size // 2 for size in image.shape]], "point_labels": [1]}
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"case_id": case["case_id"], "label": "liver", "space": "voxel", **shape}]))
    data = {"dataset_dir": str(ct3d_dir), "tracking_uri": tracking_uri, "prompts_file": str(prompts)}
    extra = {"max_windows": 2} if row.is_volumetric else {}
    run(bundle, "inference", weights="tiny", labels={"liver": 3}, output_dir=str(tmp_path / "masks"), **data, **extra)
    masks = sorted((tmp_path / "masks").glob("*.nii.gz"))
    assert len(masks) == 4  # three sub-volumes and the phantom itself, with or without a prompt
    mask = nibabel.load(next(path for path in masks if Path(case["image"]).name.split(".")[0] in path.name))
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 3}


@pytest.mark.parametrize(("row", "usage"), TRAINED)
def test_a_usage_trains_evaluates_and_infers(row: Row, usage: str, data_of, tracking_uri: str, tmp_path: Path) -> None:
    bundle = copy_bundle(f"{row.name}_segmentation_{usage}", tmp_path)
    data = {"dataset_dir": str(data_of(row)), "tracking_uri": tracking_uri}
    extra = {"max_windows": 1} if row.is_volumetric and usage != PROMPT_FREE else {}
    size = {"loss_size": [edge // 4 for edge in row.input_spec["window"]] if row.is_volumetric else 64}
    run(bundle, "train", weights="tiny", epochs=1, batch_size=3, **data, **size, **extra)
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert not any("lora" in key or "base_model" in key for key in state)
    assert (bundle / "models" / "adapter.safetensors").exists() == ("lora" in usage)
    info = json.loads((bundle / "models" / "model.json").read_text(encoding="utf-8"))
    assert (info["fm"], info["usage"], info["weights"]) == (row.name, usage, "tiny")

    prompts = {} if usage == PROMPT_FREE else {"prompts": [row.prompts[0]]}
    run(bundle, "evaluate", n_bootstrap=0, split=["test"], **prompts, **data, **extra)
    predictions, subgroups, _ = tables(bundle / "eval")
    assert not predictions["failed"].any()
    assert set(predictions["prompt"]) == ({""} if usage == PROMPT_FREE else {row.prompts[0]})
    assert "dice" in set(subgroups["metric"])
    assert "tiny random weights" in (bundle / "eval" / "report.html").read_text(encoding="utf-8")

    run(bundle, "inference", output_dir=str(bundle / "masks"), **data, **extra)
    images = pd.read_csv(data_of(row) / "manifest.csv").query("split == 'test'")["image"]
    masks = sorted((bundle / "masks").glob("*.nii.gz"))
    shapes = sorted(nibabel.load(data_of(row) / image).shape for image in images)
    assert sorted(nibabel.load(mask).shape for mask in masks) == shapes


def test_sweeps_clicks_and_saved_prompts_in_one_pass(ct2d_dir: Path, tracking_uri: str, tmp_path: Path) -> None:
    bundle = copy_bundle("demo_sam_segmentation_prompted", tmp_path)
    kinds = ["box", "box-j10", "box-j20", "point-d100", "point-d0", "center-k2"]
    data = {"dataset_dir": str(ct2d_dir), "tracking_uri": tracking_uri}
    run(bundle, "evaluate", **{**COMMON, "weights": "pretrained"}, **data, prompts=kinds, log_cases=True)
    predictions, subgroups, _ = tables(bundle / "eval")
    clicks = predictions["prompt"] == "center-k2"
    assert predictions.loc[clicks & ~predictions["empty_reference"], list(CLICK_COLUMNS)].notna().all(axis=None)
    assert predictions.loc[~clicks, list(CLICK_COLUMNS)].isna().all(axis=None)
    assert "clicks90" in set(subgroups["metric"])
    report = (bundle / "eval" / "report.html").read_text(encoding="utf-8")
    assert "Sensitivity to the prompter" in report
    assert "Box against jitter" in report
    assert "Position of the click" in report

    saved = json.loads((bundle / "eval" / "prompts.json").read_text(encoding="utf-8"))
    assert {prompt["kind"] for prompt in saved} == set(kinds)
    labels = json.loads((ct2d_dir / "dataset.json").read_text(encoding="utf-8"))["labels"]
    options = {
        "prompts_file": str(bundle / "eval" / "prompts.json"),
        "prompt_kind": "box",
        "labels": labels,
        "output_dir": str(bundle / "masks"),
    }
    run(bundle, "inference", **data, **options)
    # The saved prompts repeat the run: the same pixels are segmented.
    masks = (bundle / "masks").glob("*.nii.gz")
    found = {path.name.split("_mask")[0]: np.asarray(nibabel.load(path).dataobj) for path in masks}
    total = predictions[predictions["prompt"] == "box"].groupby("case_id")["n_pred_voxels"].agg(["max", "sum"])
    manifest = pd.read_csv(ct2d_dir / "manifest.csv").set_index("case_id")
    for case_id, row in total.iterrows():
        name = Path(manifest.loc[case_id, "image"]).name.split(".")[0]
        assert row["max"] <= (found[name] > 0).sum() <= row["sum"]


@pytest.mark.parametrize(
    "way",
    [
        {"prompt_per": "key_slice", "propagation": "box"},
        {"slice_axis": "vote"},
        {"slice_axis": 0},
        {"prompt_per": "volume"},
        {"protocol": "fairmedfm"},
    ],
    ids=lambda way: "-".join(map(str, way.values())),
)
def test_ways_through_a_volume(way: dict[str, object], ct3d_dir: Path, tracking_uri: str, tmp_path: Path) -> None:
    bundle = copy_bundle("demo_sam_segmentation_prompted", tmp_path)
    data = {"dataset_dir": str(ct3d_dir), "tracking_uri": tracking_uri}
    run(bundle, "evaluate", **{**COMMON, "weights": "pretrained"}, **data, **way, prompts=["box"])
    predictions, _, _ = tables(bundle / "eval")
    assert not predictions["failed"].any()
    assert (predictions["n_pred_voxels"] > 0).any()
    assert (bundle / "eval" / "slices.csv").exists() == ("protocol" in way)
