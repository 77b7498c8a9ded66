"""Where trainings start (``start_from``), and a training that keeps its last epoch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from fairmedfm_monai.bundle import ModelInfo, keep_last, start_from_model, validation_cases
from fairmedfm_monai.networks.checkpoint import WeightsError
from tests.bundle.runs import BUNDLES, chain, copy_bundle, run, same

INFO = ModelInfo(fm="sam", usage="full_finetune", variant="vit_b", weights="tiny", classes=["rim", "cup"])


def saved(folder: Path, info: ModelInfo = INFO) -> Path:
    """A model.pt full of ones with its description."""
    layer = nn.Linear(2, 1)
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
    torch.save(layer.state_dict(), folder / "model.pt")
    info.write(folder)
    return folder / "model.pt"


def weight(layer: nn.Linear) -> Tensor:
    return layer.weight.detach().clone()


def test_a_model_starts_from_another_s_weights(tmp_path: Path) -> None:
    layer = nn.Linear(2, 1)
    start_from_model(str(saved(tmp_path)), layer, info=INFO)
    assert weight(layer).tolist() == [[1, 1]]


@pytest.mark.parametrize("resume", ["progress.pt", None])
def test_with_resume_or_without_a_start_nothing_is_touched(resume: str | None, tmp_path: Path) -> None:
    layer = nn.Linear(2, 1)
    before = weight(layer)
    start_from_model(str(saved(tmp_path)) if resume else None, layer, info=INFO, resume=resume)
    assert torch.equal(weight(layer), before)


@pytest.mark.parametrize(
    ("field", "value"),
    [("fm", "medsam"), ("usage", "lora"), ("variant", "vit_l"), ("classes", ["cup", "rim"]), ("classes", ["rim"])],
)
def test_a_model_of_something_else_is_refused(field: str, value: Any, tmp_path: Path) -> None:
    file = saved(tmp_path, dataclasses.replace(INFO, **{field: value}))
    with pytest.raises(ValueError, match=rf"start_from.*of {field} "):
        start_from_model(file, nn.Linear(2, 1), info=INFO)


def test_other_tensors_are_named_and_a_file_that_is_not_there_too(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"start_from.*0 missing, 1 unexpected, 1 of another shape.*bias.*weight"):
        start_from_model(saved(tmp_path), nn.Linear(3, 1, bias=False), info=INFO)
    with pytest.raises(FileNotFoundError, match=r"start_from.*is not there"):
        start_from_model(tmp_path / "none.pt", nn.Linear(2, 1), info=INFO)


def test_another_setting_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = saved(tmp_path, dataclasses.replace(INFO, settings={"image_size": 512}))
    start_from_model(file, nn.Linear(2, 1), info=dataclasses.replace(INFO, settings={"image_size": None}))
    assert "trained with another image_size" in caplog.text


def test_the_last_epoch_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    layer = nn.Linear(1, 1, bias=False)

    def step(engine: Engine, _: Any) -> None:
        layer.weight.data.fill_(engine.state.epoch)

    for select_by, kept in (("last", True), ("val/dice", False)):
        trainer, folder = Engine(step), tmp_path / select_by
        keep_last(trainer, folder, layer, select_by=select_by)
        trainer.run([0], max_epochs=3)
        assert (folder / "model.pt").exists() == kept
    assert torch.load(tmp_path / "last" / "model.pt", weights_only=True)["weight"].item() == 3


def test_validation_cases_are_those_of_the_split_unless_the_last_epoch_is_kept(xray_dir: Path) -> None:
    from fairmedfm_monai.data import load_dataset

    info = load_dataset(xray_dir)
    assert [case["case_id"] for case in validation_cases(info, "val/auc")] == [
        case["case_id"] for case in info.cases("val")
    ]
    assert validation_cases(info, "last") == []


def without_validation(dataset: Path, folder: Path) -> Path:
    """The cases of a dataset, all but those of the validation split to train on."""
    import pandas as pd

    table = pd.read_csv(dataset / "manifest.csv")
    folder.mkdir()
    for file in dataset.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "manifest.csv").unlink()
    table = table[table["split"] != "val"].assign(split="train")
    table["patient_id"] = table["case_id"]
    table.to_csv(folder / "manifest.csv", index=False)
    return folder


@pytest.mark.parametrize("usage", ["linear_probe", "lora"])
def test_a_classification_keeps_its_last_epoch_as_if_only_that_was_validated(
    usage: str, xray_dir: Path, tmp_path: Path
) -> None:
    bundle = copy_bundle(f"demo_clip_classification_{usage}", tmp_path)
    options = {"dataset_dir": str(xray_dir), "weights": "tiny", "epochs": 2, "tracking_uri": "off"}
    for name, choice in {"last": {"select_by": "last"}, "second": {"val_interval": 2}, "first": {"epochs": 1}}.items():
        run(bundle, "train", ckpt_dir=str(tmp_path / name), **(options | choice))
    last, second, first = (
        torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("last", "second", "first")
    )
    assert same(last, second)
    assert not same(last, first)


def test_a_training_that_could_leave_no_model_is_refused_with_advice(xray_dir: Path, tmp_path: Path) -> None:
    bundle, data = (
        copy_bundle("demo_clip_classification_linear_probe", tmp_path),
        without_validation(xray_dir, tmp_path / "d"),
    )
    options = {"dataset_dir": str(data), "weights": "tiny", "epochs": 1, "tracking_uri": "off"}
    advice: dict[str, dict[str, object]] = {
        "there is train (72); a training chooses": {},
        "--patience 2 counts": {"select_by": "last", "patience": 2},
        "--val_interval 2 is more than the 1 epochs": {"dataset_dir": str(xray_dir), "val_interval": 2},
    }
    for text, wrong in advice.items():
        with pytest.raises((RuntimeError, ValueError)) as caught:
            run(bundle, "train", ckpt_dir=str(tmp_path / "one"), **(options | wrong))
        assert text in chain(caught.value)
    run(bundle, "train", ckpt_dir=str(tmp_path / "one"), select_by="last", **options)
    assert (tmp_path / "one" / "model.pt").exists()


@pytest.mark.parametrize("usage", ["linear_probe", "lora"])
def test_classification_goes_on_from_an_earlier_training(usage: str, xray_dir: Path, tmp_path: Path) -> None:
    """At a rate of 0 the second training ends where the first one did; from the FM it would not."""
    bundle = copy_bundle(f"demo_clip_classification_{usage}", tmp_path)
    options = {"dataset_dir": str(xray_dir), "weights": "tiny", "epochs": 1, "tracking_uri": "off"}
    run(bundle, "train", ckpt_dir=str(tmp_path / "one"), **options)
    start = {"start_from": str(tmp_path / "one" / "model.pt"), "learning_rate": 0.0, "weight_decay": 0.0, "seed": 3}
    for name, given in (("two", start), ("none", start | {"start_from": None})):
        run(bundle, "train", ckpt_dir=str(tmp_path / name), **options, **given)
    one, two, none = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("one", "two", "none"))
    assert same(one, two)
    assert not same(one, none)


@pytest.mark.parametrize("usage", ["decoder_finetune", "lora_prompted"])
def test_prompted_segmentation_does_so_too(usage: str, ct2d_dir: Path, tmp_path: Path) -> None:
    folder = without_validation(ct2d_dir, tmp_path / "data")
    bundle = copy_bundle(f"demo_sam_segmentation_{usage}", tmp_path)
    options = {"dataset_dir": str(folder), "weights": "tiny", "epochs": 1, "tracking_uri": "off", "loss_size": 32}
    run(bundle, "train", ckpt_dir=str(tmp_path / "one"), select_by="last", **options)
    start = {"start_from": str(tmp_path / "one" / "model.pt"), "learning_rate": 0.0, "weight_decay": 0.0}
    run(bundle, "train", ckpt_dir=str(tmp_path / "two"), select_by="last", **options, **start)
    one, two = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("one", "two"))
    assert same(one, two)


def test_every_training_has_the_key_and_the_step() -> None:
    for file in sorted(BUNDLES.glob("*/configs/train.json")):
        config = json.loads(file.read_text(encoding="utf-8"))
        overlay = json.loads(file.with_name("multi_gpu_train.json").read_text(encoding="utf-8"))
        assert config["start_from"] is None
        for steps in (config["initialize"], overlay["initialize"]):
            names = [step.partition("(")[0] for step in steps]
            assert names.index("$start_from_model") < names.index("$keep_progress")
