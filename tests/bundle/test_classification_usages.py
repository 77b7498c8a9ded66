"""Every classification usage runs on pictures and volumes, with classes that exclude each other or do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fairmedfm_monai.catalog import find_row, input_spec, rows
from tests.bundle.runs import run, tables
from tests.bundle.toy_cases import make_toy
from tests.bundle.usage_bundles import write_bundle
from tests.processes import torchrun

TRAINED = ("linear_probe", "mlp_probe", "prototypes", "adapter", "lora", "full_finetune")
NAMES = ["class_0", "class_1", "class_2"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("toy") / "pictures", classes=3)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("toy") / "labels", classes=3, multi_label=True)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("toy") / "volumes", spatial_dims=3)


def go(bundle: Path, config: str, data: Path, **overrides: object) -> None:
    run(bundle, config, dataset_dir=str(data), tracking_uri="off", **overrides)


def train_and_compare(bundle: Path, data: Path, *, epochs: int = 2, modality: str = "xray", **options: object) -> Path:
    """Train, evaluate and infer; cached features and images must give the same probabilities."""
    go(bundle, "train", data, weights="tiny", epochs=epochs, batch_size=8, **options)
    go(bundle, "evaluate", data, n_bootstrap=0)
    window = [0, 400] if modality == "ct" else None
    go(bundle, "inference", data, output_dir=str(bundle / "inferred"), modality=modality, window=window)
    scores, _, _ = tables(bundle / "eval")
    scores = scores[scores["split"] == "test"]
    inferred = pd.read_csv(bundle / "inferred" / "predictions.csv")
    names = [name.removeprefix("score_") for name in scores if name.startswith("score")]
    for name in names:
        score = scores["score" if name == "score" else f"score_{name}"]
        column = "probability_class_1" if name == "score" else f"probability_{name}"
        np.testing.assert_allclose(np.sort(inferred[column]), np.sort(score), atol=1e-5)
    return bundle


@pytest.mark.parametrize("usage", TRAINED)
def test_three_classes(usage: str, pictures: Path, tmp_path: Path) -> None:
    bundle = train_and_compare(write_bundle(usage, tmp_path), pictures)
    scores = tables(bundle / "eval")[0][[f"score_{name}" for name in NAMES]]
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    info = json.loads((bundle / "models" / "model.json").read_text(encoding="utf-8"))
    assert list(info["classes"]) == NAMES
    assert info["settings"]["multi_label"] is False
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert {name.partition(".")[0] for name in state} == {"encoder", "head"}


@pytest.mark.parametrize("usage", ["linear_probe", "mlp_probe", "prototypes", "adapter", "full_finetune"])
def test_independent_labels_by_the_card_alone(usage: str, labels: Path, tmp_path: Path) -> None:
    bundle = train_and_compare(write_bundle(usage, tmp_path), labels)
    scores, subgroups, _ = tables(bundle / "eval")
    assert {f"label_{name}" for name in NAMES} <= set(scores)
    assert (scores[[f"score_{name}" for name in NAMES]].sum(axis=1) - 1).abs().min() > 1e-3
    assert set(NAMES) <= set(subgroups["label"])
    assert json.loads((bundle / "models" / "model.json").read_text(encoding="utf-8"))["settings"]["multi_label"] is True


def test_zero_shot_on_independent_labels_is_not_saturated(labels: Path, tmp_path: Path) -> None:
    bundle = write_bundle("zero_shot", tmp_path)
    go(bundle, "evaluate", labels, weights="tiny", n_bootstrap=0)
    scores = tables(bundle / "eval")[0][[f"score_{name}" for name in NAMES]].to_numpy()
    assert (scores > 0).all()
    assert (scores < 1).all()
    assert np.ptp(scores, axis=0).min() > 0


@pytest.mark.parametrize(
    ("usage", "pooling"),
    [("linear_probe", "max"), ("linear_probe", "attention"), ("adapter", "mean"), ("lora", "attention")],
)
def test_a_model_of_pictures_on_volumes(usage: str, pooling: str, volumes: Path, tmp_path: Path) -> None:
    options = {"slices": 6, "slice_pooling": pooling}
    bundle = train_and_compare(write_bundle(usage, tmp_path), volumes, epochs=1, modality="ct", **options)
    settings = json.loads((bundle / "models" / "model.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["spatial_dims"], settings["slices"], settings["slice_pooling"]) == (3, 6, pooling)


def test_zero_shot_on_volumes_needs_no_word_of_their_dimension(volumes: Path, tmp_path: Path) -> None:
    bundle = write_bundle("zero_shot", tmp_path)
    go(bundle, "evaluate", volumes, weights="tiny", n_bootstrap=0, slices=6)
    prompts = {name: [f"image showing {text}"] for name, text in _prompts(volumes).items()}
    options = {"classes": prompts, "modality": "ct", "window": [0, 400], "settings#slices": 6}
    go(bundle, "inference", volumes, weights="tiny", output_dir=str(bundle / "inferred"), **options)
    scores = tables(bundle / "eval")[0].query("split == 'test'")["score"]
    inferred = pd.read_csv(bundle / "inferred" / "predictions.csv")["probability_class_1"]
    np.testing.assert_allclose(np.sort(inferred), np.sort(scores), atol=1e-5)


def _prompts(folder: Path) -> dict[str, str]:
    classes = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["classes"]
    return {name: texts[0].removeprefix("image showing ") for name, texts in classes.items()}


@pytest.mark.parametrize(
    "fm", [row.name for row in rows().values() if row.task == "classification" and row.is_volumetric]
)
def test_a_model_of_volumes_gets_them_on_its_own_grid(fm: str, volumes: Path, tmp_path: Path) -> None:
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(write_bundle("linear_probe", tmp_path, fm=fm) / "configs" / "inference.json"))
    variant = min(find_row(fm).variants, key=lambda name: np.prod(input_spec(fm, name)["window"]))
    parser.update({"weights": "tiny", "variant": variant, "bundle_root": str(tmp_path)})
    preprocessing = parser.get_parsed_content("preprocessing")
    image = preprocessing({"image": str(volumes / "images" / "test-01.nii.gz")})["image"]
    assert tuple(image.shape) == (1, *input_spec(fm, variant)["window"])
    low, high = find_row(fm).input_spec["hu_range"]
    bright = (150 - low) / (high - low)  # the mark of the toy on noise of 20 HU
    assert image.min() >= 0
    assert image.max() == pytest.approx(bright, abs=60 / (high - low))
    with torch.no_grad():
        assert parser.get_parsed_content("network_def")(image[None]).shape == (1, 2)


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_the_linear_probe_has_other_solvers(solver: str, pictures: Path, tmp_path: Path) -> None:
    bundle = train_and_compare(write_bundle("linear_probe", tmp_path), pictures, solver=solver)
    if solver == "lbfgs":
        rows = tables(bundle / "eval")[1].query("attribute == 'overall' and metric == 'auc' and label == ''")
        assert rows["value"].min() > 0.7


def test_an_unknown_solver_gets_the_nearest_name(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        go(write_bundle("linear_probe", tmp_path), "train", pictures, weights="tiny", solver="lbgfs")
    error: BaseException | None = caught.value
    messages = []
    while error is not None:
        messages.append(str(error))
        error = error.__cause__
    assert "did you mean 'lbfgs'" in " ".join(messages)


@pytest.mark.parametrize(("usage", "options"), [("linear_probe", {"solver": "lbfgs"}), ("full_finetune", {})])
def test_a_training_resumes(usage: str, options: dict[str, object], pictures: Path, tmp_path: Path) -> None:
    bundle = write_bundle(usage, tmp_path)
    go(bundle, "train", pictures, weights="tiny", epochs=2, **options)
    first = torch.load(bundle / "models" / "progress.pt", weights_only=True)
    resume = str(bundle / "models" / "progress.pt")
    go(bundle, "train", pictures, weights="tiny", epochs=3, resume=resume, **options)
    second = torch.load(bundle / "models" / "progress.pt", weights_only=True)
    assert (first["trainer"]["iteration"], second["trainer"]["iteration"]) == (
        2 * first["trainer"]["epoch_length"],
        3 * first["trainer"]["epoch_length"],
    )


def test_full_finetuning_moves_the_encoder_with_decaying_rates(pictures: Path, tmp_path: Path) -> None:
    """AdamW's first step moves the most eager weight of a tensor by its learning rate."""
    from fairmedfm_monai.networks.encoders.demo_clip import DemoCLIP

    bundle, rates = write_bundle("full_finetune", tmp_path), {"learning_rate": 0.001, "layer_decay": 0.5}
    go(bundle, "train", pictures, weights="tiny", epochs=1, weight_decay=0.0, gradient_checkpointing=True, **rates)
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    start = DemoCLIP("tiny").state_dict()
    moved = {
        name: float((state[f"encoder.{name}"] - tensor).abs().max())
        for name, tensor in start.items()
        if "image." in name
    }
    layers = ["stem.0.weight", *(f"stages.{number}.conv1.weight" for number in range(4)), "blocks.0.fc1.weight"]
    for below, name in enumerate(reversed(layers), start=1):
        assert moved[f"image.{name}"] == pytest.approx(0.001 * 0.5**below, rel=0.02), name


@pytest.mark.full
def test_two_processes_find_the_optimum_of_one_by_lbfgs(pictures: Path, tmp_path: Path) -> None:
    options = {"weights": "tiny", "solver": "lbfgs", "epochs": 5, "weight_decay": 0.1}
    one, two = (write_bundle("linear_probe", tmp_path / name) for name in ("one", "two"))
    go(one, "train", pictures, **options)
    torchrun(two, "--dataset_dir", str(pictures), *(f"--{key}={value}" for key, value in options.items()))
    heads = [torch.load(folder / "models" / "progress.pt", weights_only=True)["model"] for folder in (one, two)]
    assert list(heads[0]) == list(heads[1]) == ["weight", "bias"]
    largest = heads[0]["weight"].abs().max()
    assert (heads[0]["weight"] - heads[1]["weight"]).abs().max() < 0.005 * largest


@pytest.mark.full
def test_two_processes_train_a_whole_network(pictures: Path, tmp_path: Path) -> None:
    bundle = write_bundle("full_finetune", tmp_path)
    torchrun(bundle, "--dataset_dir", str(pictures), "--weights", "tiny", "--epochs", "1", "--batch_size", "6")
    go(bundle, "evaluate", pictures, n_bootstrap=0)
    assert len(tables(bundle / "eval")[0]) == 32
