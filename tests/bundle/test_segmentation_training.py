"""Training usages of promptable segmenters as bundles: train, evaluate, infer, on slices and on volumes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.bundle import run as run_bundle

from fairmedfm_monai.bundle import ModelInfo
from fairmedfm_monai.bundle.configs import segmentation_samples, segmentation_trained, segmentation_training
from fairmedfm_monai.catalog import Row, find_row
from fairmedfm_monai.networks.segmenters.demo_sam import DemoSAM
from fairmedfm_monai.usages import PromptFreeSegmenter
from tests.bundle.runs import chain

USAGES = segmentation_samples.USAGES
TARGETS = ("attn.qkv",)
METADATA = Path(__file__).parents[2] / "bundles" / "demo_sam_segmentation_prompted" / "configs" / "metadata.json"


def row(usage: str) -> Row:
    return dataclasses.replace(find_row("demo_sam"), usages=(usage,), lora_targets=TARGETS)


def render(folder: Path, usage: str, found: Row | None = None) -> Path:
    """A bundle's configurations, as the renderer writes them."""
    found = found or row(usage)
    configs = {
        "train": segmentation_training.train(found, usage),
        "multi_gpu_train": segmentation_training.multi_gpu_train(found, usage),
        "evaluate": segmentation_trained.evaluate(found, usage),
        "multi_gpu_evaluate": segmentation_trained.multi_gpu_evaluate(found, usage),
        "inference": segmentation_trained.inference(found, usage),
    }
    (folder / "configs").mkdir(parents=True)
    for config, content in configs.items():
        (folder / "configs" / f"{config}.json").write_text(json.dumps(content, indent=4))
    return folder


def run(bundle: Path, config: str, **overrides: Any) -> None:
    options = {"tracking_uri": "off", "bundle_root": str(bundle), **overrides}
    run_bundle(config_file=str(bundle / "configs" / f"{config}.json"), **options)


@pytest.fixture(scope="module")
def slices_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CT slices of a phantom with a training split."""
    from fairmedfm_monai.data.demo import make_ct2d
    from fairmedfm_monai.data.demo.phantom import make_phantom

    folder = tmp_path_factory.mktemp("data") / "ct2d"
    return make_ct2d(folder, scan=make_phantom(), n_train=6, n_val=2, n_test=2)


@pytest.fixture(scope="module")
def volumes_dir(ct3d_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The volumes of the phantom, two of them for training."""
    folder = Path(shutil.copytree(ct3d_dir, tmp_path_factory.mktemp("data") / "ct3d"))
    table = pd.read_csv(folder / "manifest.csv")
    table.loc[table.index[table["split"] == "test"][:2], "split"] = "train"
    table["patient_id"] = [f"patient{number}" for number in range(len(table))]
    table.to_csv(folder / "manifest.csv", index=False)
    return folder


@pytest.mark.parametrize("usage", USAGES)
def test_a_training_ends_in_a_plain_model(usage: str, slices_dir: Path, tmp_path: Path) -> None:
    bundle = render(tmp_path / usage, usage)
    run(bundle, "train", weights="tiny", epochs=1, loss_size=64, batch_size=3, dataset_dir=str(slices_dir))
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    model = PromptFreeSegmenter(DemoSAM("tiny"), 8) if usage == "lora" else DemoSAM("tiny")
    model.load_state_dict(state)
    changed = {
        name for name, tensor in DemoSAM("tiny").state_dict().items() if not torch.equal(tensor, _of(state, name))
    }
    assert {name.split(".")[0] for name in changed} == CHANGED[usage]
    assert (bundle / "models" / "adapter.safetensors").exists() == ("lora" in usage)
    assert (bundle / "models" / "progress.pt").exists()
    info = json.loads((bundle / "models" / "model.json").read_text(encoding="utf-8"))
    assert (info["usage"], info["weights"], info["dataset"]) == (usage, "tiny", "demo-ct2d")


CHANGED = {
    "decoder_finetune": {"mask_decoder"},
    "lora_prompted": {"mask_decoder", "image_encoder"},
    "full_finetune": {"mask_decoder", "image_encoder", "prompt_encoder"},
    "lora": {"mask_decoder", "image_encoder", "prompt_encoder"},
}
"""Parts of the FM that a usage changes."""


def _of(state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    found = state.get(name, state.get(f"segmenter.{name}"))
    # The mask tokens of `lora` are of another number.
    return torch.empty(0) if found is None else found


@pytest.mark.parametrize("usage", ["decoder_finetune", "lora"])
def test_a_trained_model_evaluates_and_infers_in_the_files_own_grid(
    usage: str, slices_dir: Path, tmp_path: Path
) -> None:
    bundle, data = render(tmp_path / usage, usage), {"dataset_dir": str(slices_dir)}
    run(bundle, "train", weights="tiny", epochs=1, loss_size=64, batch_size=3, **data)
    prompts = {} if usage == "lora" else {"prompts": ["box", "center"]}
    run(bundle, "evaluate", n_bootstrap=0, output_dir=str(bundle / "eval"), **prompts, **data)
    predictions = pd.read_parquet(bundle / "eval" / "predictions.parquet")
    kinds = {""} if usage == "lora" else {"box", "center"}
    assert set(predictions["prompt"]) == kinds
    assert len(predictions) == 4 * 8 * len(kinds)
    assert not predictions["failed"].any()
    assert "tiny random weights" in (bundle / "eval" / "report.html").read_text(encoding="utf-8")

    run(bundle, "inference", output_dir=str(bundle / "masks"), **data)
    masks = sorted((bundle / "masks").glob("*.nii.gz"))
    images = pd.read_csv(slices_dir / "manifest.csv").query("split == 'test'")["image"]
    assert [nibabel.load(mask).shape for mask in masks] == [nibabel.load(slices_dir / image).shape for image in images]


def test_a_training_goes_on_where_it_stopped(slices_dir: Path, tmp_path: Path) -> None:
    bundle, data = render(tmp_path / "bundle", "decoder_finetune"), {"dataset_dir": str(slices_dir), "loss_size": 64}
    run(bundle, "train", weights="tiny", epochs=1, **data)
    progress = bundle / "models" / "progress.pt"
    assert torch.load(progress, weights_only=True)["trainer"]["iteration"] == 1
    run(bundle, "train", weights="tiny", epochs=2, resume=str(progress), **data)
    assert torch.load(progress, weights_only=True)["trainer"]["iteration"] == 2


def test_other_labels_than_the_models_are_refused(slices_dir: Path) -> None:
    from fairmedfm_monai.bundle.label_names import trained_labels
    from fairmedfm_monai.data import load_dataset

    info = load_dataset(slices_dir)
    model = ModelInfo(fm="sam", usage="lora", variant="vit_b", weights="tiny", classes=info.labels)
    assert trained_labels(model, info) == info.labels
    other = dataclasses.replace(model, classes={**info.labels, "bone": 99})
    with pytest.raises(ValueError, match="trained for the labels"):
        trained_labels(other, info)
    swapped = dataclasses.replace(model, classes=dict(reversed(info.labels.items())))
    with pytest.raises(ValueError, match="same labels, values and order"):
        trained_labels(swapped, info)
    assert trained_labels(dataclasses.replace(other, trained=False), info) == info.labels


def test_a_model_that_nobody_trained_says_to_train_first(slices_dir: Path, tmp_path: Path) -> None:
    bundle = render(tmp_path / "bundle", "lora")
    with pytest.raises((RuntimeError, FileNotFoundError)) as caught:
        run(bundle, "evaluate", weights="tiny", dataset_dir=str(slices_dir), n_bootstrap=0)
    assert "train this bundle first" in chain(caught.value)


@pytest.mark.parametrize(
    ("labels", "prompts", "expected"),
    [
        ({"liver": 1}, ["box"], "box/val/liver/dice"),
        ({"liver": 1, "spleen": 2}, ["center", "box"], "center/val/dice"),
        ({"liver": 1, "spleen": 2}, [], "val/dice"),
    ],
)
def test_the_checkpoint_is_chosen_by_a_metric_that_exists(
    labels: dict[str, int], prompts: list[str], expected: str
) -> None:
    from fairmedfm_monai.bundle.label_names import default_selection
    from fairmedfm_monai.fairness.selection import selection_names

    name = default_selection(labels, prompts)
    assert name == expected
    names = [*([""] if len(labels) > 1 else []), *labels]
    assert name in selection_names("segmentation", {}, labels=names, prompts=prompts or [""])


@pytest.mark.parametrize("usage", USAGES)
def test_every_property_that_monai_asks_for_is_there(usage: str, slices_dir: Path, tmp_path: Path) -> None:
    bundle = render(tmp_path / usage, usage)
    for config, kind in (("train", "train"), ("evaluate", "eval"), ("inference", "infer")):
        workflow = ConfigWorkflow(
            config_file=str(bundle / "configs" / f"{config}.json"),
            meta_file=str(METADATA),
            logging_file=False,
            workflow_type=kind,
            bundle_root=str(bundle),
            dataset_dir=str(slices_dir),
            weights="tiny",
            tracking_uri="off",
            initialize=[],
        )
        workflow.initialize()
        assert workflow.check_properties() == []


@pytest.mark.parametrize("usage", USAGES)
@pytest.mark.parametrize("model", ["slices", "volumes"])
def test_configurations_show_their_pipeline(usage: str, model: str) -> None:
    found = volumetric(usage) if model == "volumes" else row(usage)
    for config in (segmentation_training.train(found, usage), segmentation_trained.evaluate(found, usage)):
        keys = list(config)
        assert keys[0] == "imports"
        for text in _expressions(config):
            assert text.count("(") <= 2, text  # one call, and the engine's event or the length of a loader inside
        components = [key for key, value in config.items() if isinstance(value, dict) and "_target_" in value]
        scalars = ("dataset_dir", "weights", "batch_size", "device", "seed", "tracking_uri")
        assert max(map(keys.index, scalars)) < min(map(keys.index, components))


def _expressions(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _expressions(item)]
    if isinstance(value, list):
        return [text for item in value for text in _expressions(item)]
    return [value] if isinstance(value, str) and value.startswith("$") else []


def volumetric(usage: str) -> Row:
    """A model of volumes, described as in the catalog."""
    spec = {"size": 128, "channels": 1, "mean": [0.0], "std": [1.0], "window": [128, 128, 128], "axcodes": "RAS"}
    return dataclasses.replace(
        row(usage),
        network="fairmedfm_monai.networks.segmenters.sam_med3d.SamMed3dSegmenter",
        variants={"turbo": {}},
        default_variant="turbo",
        prompts=("center", "points", "text"),
        input_spec={**spec, "spacing": 1.5, "zoom": False},
    )


@pytest.mark.parametrize(("usage", "model"), [("lora", "slices"), ("decoder_finetune", "volumes")])
def test_training_on_volumes(usage: str, model: str, volumes_dir: Path, tmp_path: Path) -> None:
    found = volumetric(usage) if model == "volumes" else row(usage)
    bundle = render(tmp_path / usage, usage, found)
    own = {"loss_size": [32, 32, 32], "max_windows": 1} if model == "volumes" else {"loss_size": 32, "slice_batch": 16}
    run(bundle, "train", weights="tiny", epochs=1, samples_per_case=2, dataset_dir=str(volumes_dir), **own)
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    if model == "slices":
        run(bundle, "inference", dataset_dir=str(volumes_dir), output_dir=str(bundle / "masks"))
        table = pd.read_csv(volumes_dir / "manifest.csv").query("split == 'test'")
        shapes = {nibabel.load(volumes_dir / image).shape for image in table["image"]}
        assert {nibabel.load(mask).shape for mask in (bundle / "masks").glob("*.nii.gz")} == shapes
