"""Mitigation by one override of the train.json of segmentation bundles: with and without prompts, resumed, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fairmedfm_monai.bundle.configs import segmentation_training
from fairmedfm_monai.catalog import find_row
from fairmedfm_monai.handlers import GroupCodes
from fairmedfm_monai.losses.febs import FEBSLoss
from fairmedfm_monai.losses.group_dro import GroupDROLoss
from tests.bundle.runs import chain, copy_bundle, run, same
from tests.processes import torchrun

SEXES = ("female", "male")
SMALL: dict[str, Any] = {"weights": "tiny", "epochs": 1, "loss_size": 32, "batch_size": 3, "tracking_uri": "off"}


@pytest.fixture(scope="module")
def slices_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CT slices of a phantom: four of women and two of men to train on."""
    from fairmedfm_monai.data.demo import make_ct2d
    from fairmedfm_monai.data.demo.phantom import make_phantom

    folder = tmp_path_factory.mktemp("data") / "ct2d"
    make_ct2d(folder, scan=make_phantom(), n_train=6, n_val=2, n_test=2)
    table = pd.read_csv(folder / "manifest.csv")
    training = table.index[table["split"] == "train"]
    table.loc[training, "sex"] = ["female", "male", "female", "female", "male", "female"]
    table.to_csv(folder / "manifest.csv", index=False)
    return folder


def train(folder: Path, data: Path, usage: str = "lora", method: str = "", **overrides: Any) -> Path:
    """Train a fresh copy of a bundle, or the one that is there; returns the folder of models."""
    name = f"demo_sam_segmentation_{usage}"
    bundle = folder / name if (folder / name).exists() else copy_bundle(name, folder)
    options = {"dataset_dir": str(data), **SMALL}
    if method:
        options |= {"mitigation": method, "mitigation_attributes": "sex"}
    run(bundle, "train", **(options | overrides))
    return bundle / "models"


def weights(folder: Path, name: str = "model.pt", part: str | None = None) -> dict[str, torch.Tensor]:
    state = torch.load(folder / name, weights_only=True)
    return state if part is None else state[part]


@pytest.fixture(scope="module")
def plain(slices_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models trained without mitigation."""
    folder = tmp_path_factory.mktemp("plain")
    return {usage: train(folder, slices_dir, usage) for usage in ("lora", "decoder_finetune")}


@pytest.mark.parametrize(
    ("usage", "method", "options"),
    [
        ("lora", "resampling", {}),
        ("lora", "group_dro", {"eta": 1.0}),
        ("lora", "febs", {}),
        ("lora", "febs_published", {}),
        ("lora", "laftr", {}),
        ("lora", "domain_independent", {}),
        ("decoder_finetune", "laftr", {}),
        ("decoder_finetune", "domain_independent", {}),
        ("decoder_finetune", "group_dro", {"eta": 1.0, "balanced": False}),
        ("decoder_finetune", "reweighting", {}),
        ("decoder_finetune", "fairness_constraint", {"statistic": "loss"}),
        ("decoder_finetune", "febs", {}),
    ],
)
def test_a_method_trains_other_weights_and_is_recorded(
    usage: str, method: str, options: dict[str, Any], plain: dict[str, Path], slices_dir: Path, tmp_path: Path
) -> None:
    models = train(tmp_path, slices_dir, usage, method, mitigation_options=options)
    state = weights(models)
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert list(state) == list(weights(plain[usage]))
    assert not same(weights(models, "progress.pt", "model"), weights(plain[usage], "progress.pt", "model"))
    about = json.loads((models / "model.json").read_text(encoding="utf-8"))["mitigation"]
    assert (about["name"], about["groups"], about["unknown"]) == (method, {"female": 4, "male": 2}, 0)
    assert about["needs_attribute_at_inference"] is False


@pytest.mark.parametrize(
    ("usage", "method"),
    [
        ("lora_prompted", "febs"),
        ("lora_prompted", "domain_independent"),
        ("full_finetune", "laftr"),
        ("full_finetune", "domain_independent"),
    ],
)
def test_usages_with_prompts_and_images_take_a_method(
    usage: str, method: str, slices_dir: Path, tmp_path: Path
) -> None:
    models = train(tmp_path, slices_dir, usage, method)
    about = json.loads((models / "model.json").read_text(encoding="utf-8"))["mitigation"]
    assert about["name"] == method
    assert about.get("representation", "") == ("image embedding, mean over positions" if method == "laftr" else "")


def test_a_model_of_volumes_takes_a_method(ct3d_dir: Path, tmp_path: Path) -> None:
    """The embedding of a window; one label, a few voxels of loss."""
    bundle = copy_bundle("sam_med3d_segmentation_lora_prompted", tmp_path)
    options = {**SMALL, "loss_size": [32] * 3, "batch_size": 2, "samples_per_case": 1, "select_by": "last"}
    for method in ("laftr", "domain_independent"):
        run(bundle, "train", dataset_dir=str(ct3d_dir), mitigation=method, mitigation_attributes="sex", **options)
        assert all(torch.isfinite(tensor).all() for tensor in weights(bundle / "models").values())


@pytest.mark.parametrize("usage", ["lora", "decoder_finetune"])
def test_the_loss_gets_the_group_of_each_sample(
    usage: str, slices_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two samples per case, in the order in which the loss sees them."""
    table = pd.read_csv(slices_dir / "manifest.csv").set_index("case_id")
    expected, found, sizes = [], [], []
    started, compute = GroupCodes.iteration_started, GroupDROLoss.compute

    def look(self: GroupCodes, engine: Any) -> None:
        expected.extend([SEXES.index(table.loc[case, "sex"]) for case in engine.state.batch["case_id"]])
        started(self, engine)

    def keep(self: GroupDROLoss, pred: torch.Tensor, target: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        found.extend(codes.tolist())
        sizes.append((len(pred), len(target), len(codes)))
        return compute(self, pred, target, codes)

    monkeypatch.setattr(GroupCodes, "iteration_started", look)
    monkeypatch.setattr(GroupDROLoss, "compute", keep)
    options = {"mitigation_options": {"balanced": False}, "samples_per_case": 2, "batch_size": 5}
    train(tmp_path, slices_dir, usage, "group_dro", **options)
    assert found == expected
    assert (found.count(0), found.count(1)) == (8, 4)
    assert sizes == [(5, 5, 5), (5, 5, 5), (2, 2, 2)]


@pytest.mark.parametrize("usage", ["lora", "decoder_finetune"])
def test_erm_is_the_training_without_the_keys(
    usage: str, plain: dict[str, Path], slices_dir: Path, tmp_path: Path
) -> None:
    """Everything that mitigation put into train.json is taken out again; the weights are the same to the bit."""
    config = segmentation_training.train(find_row("demo_sam"), usage)
    config["loss"] = config.pop("plain_loss")
    del config["train"]["sampler"], config["train"]["dataloader"]["sampler"]
    config["train"]["dataloader"]["shuffle"] = True
    config["train"]["handlers"] = [item for item in config["train"]["handlers"] if "GroupCodes" not in item["_target_"]]
    progress = config["initialize"][-1]
    config["initialize"][-1] = progress[: progress.index(", method=@method")] + ")"
    del config["model_info"]["mitigation"], config["tags"]["mitigation"]
    config["prepared"], config["model_state"] = "@network_def", "@trained_state"
    for key in ("mitigation", "mitigation_attributes", "mitigation_options", "log_cases", "method"):
        del config[key]
    assert "method" not in json.dumps(config).replace('"method": "end"', "")
    bundle = copy_bundle(f"demo_sam_segmentation_{usage}", tmp_path)
    (bundle / "configs" / "train.json").write_text(json.dumps(config))
    bare = train(tmp_path, slices_dir, usage)
    assert same(weights(plain[usage]), weights(bare))
    assert same(weights(plain[usage], "progress.pt", "model"), weights(bare, "progress.pt", "model"))


@pytest.mark.parametrize(
    ("usage", "method", "options"),
    [
        ("lora", "group_dro", {"eta": 1.0}),
        ("lora", "laftr", {}),
        ("lora", "domain_independent", {}),
        ("decoder_finetune", "group_dro", {"eta": 1.0}),
        ("decoder_finetune", "laftr", {}),
    ],
)
def test_a_training_goes_on_with_what_its_method_has_learnt_and_with_no_other_method(
    usage: str, method: str, options: dict[str, Any], slices_dir: Path, tmp_path: Path
) -> None:
    """The end is that of a training in one go."""
    given: dict[str, Any] = {"usage": usage, "method": method, "mitigation_options": options}
    whole = train(tmp_path / "whole", slices_dir, **given, epochs=2)
    models = train(tmp_path / "parts", slices_dir, **given)
    resume, before = str(models / "progress.pt"), weights(models, "progress.pt", "model")
    with pytest.raises((RuntimeError, ValueError)) as caught:
        train(tmp_path / "parts", slices_dir, usage, "febs", epochs=2, resume=resume)
    if method != "domain_independent":  # whose layers the other's network lacks
        assert f"mitigation {method!r}, this one is 'febs'" in chain(caught.value)
    train(tmp_path / "parts", slices_dir, **given, epochs=2, resume=resume)
    after = weights(models, "progress.pt", "model")
    assert same(weights(whole, "progress.pt", "model"), after)
    assert same(weights(whole), weights(models))
    assert not same(before, after)
    one, two = (weights(folder, "progress.pt", "method")["loss"] for folder in (whole, models))
    assert same(one, two)
    if method == "group_dro":
        assert one["q"][0] != one["q"][1]


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("laftr", {"criterion": "equalised_odds"}, "needs criterion demographic_parity"),
        ("resampling", {"by": "class"}, "has masks: take by group"),
        ("reweighting", {"by": "group_class"}, "has masks: take by group"),
        ("fairness_constraint", {}, "needs statistic loss"),
        ("group-dro", {}, "group_dro (the loss of the worst group"),
    ],
)
def test_what_masks_cannot_have_is_refused_before_anything_is_cut(
    method: str,
    options: dict[str, Any],
    expected: str,
    slices_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fairmedfm_monai.data import SampleDataset

    monkeypatch.setattr(SampleDataset, "prepare", lambda _: pytest.fail("cut"))
    with pytest.raises((RuntimeError, ValueError)) as caught:
        train(tmp_path, slices_dir, "lora", method, mitigation_options=options)
    assert expected in chain(caught.value)


def test_a_loss_that_is_no_number_stops_and_names_the_batch(
    slices_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FEBSLoss, "compute", lambda _, pred, *__: pred.sum() * torch.nan)
    with pytest.raises((RuntimeError, FloatingPointError)):
        train(tmp_path, slices_dir, "decoder_finetune", "febs", log_cases=True)
    models = tmp_path / "demo_sam_segmentation_decoder_finetune" / "models"
    named = json.loads((models / "nan_batch.json").read_text(encoding="utf-8"))["case_ids"]
    assert len(named) == 3
    assert set(named) <= set(pd.read_csv(slices_dir / "manifest.csv")["case_id"])
    assert not (models / "progress.pt").exists()


def test_the_report_names_the_method(slices_dir: Path, tmp_path: Path) -> None:
    models = train(tmp_path, slices_dir, "lora", "febs")
    options = {"dataset_dir": str(slices_dir), "tracking_uri": "off", "n_bootstrap": 0}
    run(models.parent, "evaluate", **options)
    tags = json.loads((models.parent / "eval" / "run.json").read_text(encoding="utf-8"))["tags"]
    assert tags["mitigation"].startswith("febs by sex")
    assert "- mitigation: febs by sex" in (models.parent / "eval" / "model_card.md").read_text(encoding="utf-8")


@pytest.mark.full
@pytest.mark.parametrize("method", ["group_dro", "febs", "laftr", "domain_independent"])
def test_two_processes_train_as_one(method: str, slices_dir: Path, tmp_path: Path) -> None:
    """With both one batch in all: what is summed is the same, in another order."""
    one = train(tmp_path / "one", slices_dir, "decoder_finetune", method, batch_size=6)
    bundle = copy_bundle("demo_sam_segmentation_decoder_finetune", tmp_path / "two")
    options = {**SMALL, "batch_size": 3, "mitigation": method, "mitigation_attributes": "sex"}
    given = [f"--{key}={value}" for key, value in {**options, "dataset_dir": slices_dir}.items()]
    torchrun(bundle, *given)
    # Adam's first step has the size of the learning rate whatever the gradient is: its mean gradient tells more.
    first, second = (weights(folder, "progress.pt", "optimizer")["state"] for folder in (one, bundle / "models"))
    assert list(first) == list(second)
    assert max(float(state["exp_avg"].abs().max()) for state in first.values()) > 1e-3
    for place, state in first.items():
        torch.testing.assert_close(state["exp_avg"], second[place]["exp_avg"], rtol=1e-3, atol=1e-6)
