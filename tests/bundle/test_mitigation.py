"""Mitigation by one override of train.json: every method on heads and adapters, resumed, stopped and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fairmedfm_monai.bundle.configs import classification_training
from fairmedfm_monai.catalog import find_row
from fairmedfm_monai.handlers import GroupCodes
from fairmedfm_monai.mitigation import Method
from tests.bundle.runs import chain, copy_bundle, run, same
from tests.processes import torchrun

USAGES = ("linear_probe", "mlp_probe", "lora")
METHODS: dict[str, dict[str, Any]] = {
    "erm": {},
    "resampling": {"mitigation_options": {"by": "group"}},
    "resampling-class": {"mitigation_options": {"by": "class"}},
    "resampling-group_class": {"mitigation_options": {"by": "group_class"}},
    "reweighting": {"mitigation_attributes": ["sex", "age"]},
    "group_dro": {"mitigation_options": {"eta": 0.5, "adjustment": 1.0}},
    "fairness_constraint": {},
    "laftr": {},
    "domain_independent": {"mitigation_attributes": "race"},
}


def train(bundle: Path, data: Path, method: str = "", **overrides: Any) -> Path:
    """Train for two epochs unless told otherwise; returns the folder of models."""
    options: dict[str, Any] = {"weights": "tiny", "epochs": 2, "batch_size": 8, "tracking_uri": "off"}
    if method:
        options |= {"mitigation": method.partition("-")[0], **METHODS[method]}
    run(bundle, "train", dataset_dir=str(data), **(options | overrides))
    return bundle / "models"


def equal(one: Path, two: Path, name: str = "model.pt", part: str | None = None) -> bool:
    """Whether two files hold the same tensors, to the bit."""
    states = [torch.load(folder / name, weights_only=True) for folder in (one, two)]
    return same(*(state if part is None else state[part] for state in states))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return copy_bundle("demo_clip_classification_linear_probe", tmp_path)


@pytest.mark.parametrize("usage", USAGES)
@pytest.mark.parametrize("method", METHODS)
def test_each_method_trains_each_usage(method: str, usage: str, xray_dir: Path, tmp_path: Path) -> None:
    name = f"demo_clip_classification_{usage}"
    models = train(copy_bundle(name, tmp_path), xray_dir, method)
    state = torch.load(models / "model.pt", weights_only=True)
    expected = {"linear_probe": "head.weight", "mlp_probe": "head.3.weight", "lora": "head.weight"}[usage]
    assert state[expected].shape[0] == 2
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    about = json.loads((models / "model.json").read_text(encoding="utf-8"))["mitigation"]
    assert about["name"] == method.partition("-")[0]
    assert about["needs_attribute_at_inference"] is False


def test_erm_is_the_training_without_the_key(xray_dir: Path, tmp_path: Path) -> None:
    """Everything that mitigation put into train.json is taken out again; the weights are the same to the bit."""
    one = train(copy_bundle("demo_clip_classification_mlp_probe", tmp_path / "one"), xray_dir, "erm", hidden=8)
    config = classification_training.train(find_row("demo_clip"), "mlp_probe")
    config["loss"] = config["plain_loss"]
    config["prepared"], config["model_state"] = "@network_def", "@network_def"
    del config["train"]["dataloader"]["sampler"], config["train"]["sampler"]
    config["train"]["dataloader"]["shuffle"] = True
    config["train"]["handlers"] = [item for item in config["train"]["handlers"] if "GroupCodes" not in item["_target_"]]
    config["initialize"][-1] = config["initialize"][-1].replace(", method=@method", "")
    config["model_info"]["mitigation"], config["tags"]["mitigation"] = {}, ""
    for key in ("mitigation", "mitigation_attributes", "mitigation_options", "method"):
        del config[key]
    assert "method" not in json.dumps(config)
    bare = copy_bundle("demo_clip_classification_mlp_probe", tmp_path / "two")
    (bare / "configs" / "train.json").write_text(json.dumps(config))
    two = train(bare, xray_dir, hidden=8)
    assert equal(one, two)
    assert equal(one, two, "progress.pt", "model")


def test_methods_change_the_weights(xray_dir: Path, tmp_path: Path) -> None:
    folders = {
        name: train(copy_bundle("demo_clip_classification_linear_probe", tmp_path / name), xray_dir, name)
        for name in ("erm", "resampling", "reweighting", "group_dro", "fairness_constraint", "laftr")
    }
    names = list(folders)
    for number, name in enumerate(names):
        for other in names[:number]:
            assert not equal(folders[name], folders[other], "progress.pt", "model"), (name, other)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"mitigation": "group-dro"}, "group_dro (the loss of the worst group"),
        ({"mitigation": "threshold_per_grup"}, "Did you mean 'threshold_per_group'?"),
        ({"mitigation": "threshold_per_group"}, "evaluate eval/predictions.parquet --mitigation"),
        ({"mitigation": "group_dro", "mitigation_options": {"etta": 1}}, "did you mean 'eta'?"),
        ({"mitigation": "group_dro", "mitigation_attributes": "gender"}, "no attribute 'gender'"),
        ({"mitigation": "group_dro", "solver": "lbfgs"}, "take another `solver`"),
        ({"mitigation": "resampling", "solver": "lbfgs"}, "take another `solver`"),
        ({"mitigation": "laftr", "solver": "lbfgs"}, "take another `solver`"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_encoded(
    overrides: dict[str, Any], expected: str, bundle: Path, xray_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairmedfm_monai.data import FeatureDataset

    def encode(*_: object) -> None:
        pytest.fail("encoded")

    monkeypatch.setattr(FeatureDataset, "encode", encode)
    with pytest.raises((RuntimeError, ValueError)) as caught:
        train(bundle, xray_dir, **overrides)
    assert expected in chain(caught.value)
    assert not (bundle / "models").exists()


@pytest.mark.parametrize("method", ["reweighting", "group_dro", "fairness_constraint", "domain_independent"])
def test_methods_that_draw_nothing_train_by_lbfgs(method: str, bundle: Path, xray_dir: Path) -> None:
    options = {"mitigation_options": {"balanced": False, "eta": 0.5}} if method == "group_dro" else {}
    models = train(bundle, xray_dir, method, solver="lbfgs", **options)
    assert all(torch.isfinite(tensor).all() for tensor in torch.load(models / "model.pt", weights_only=True).values())
    if method == "group_dro":
        kept = torch.load(models / "progress.pt", weights_only=True)["method"]["loss"]["q"]
        # Once per epoch, not once per evaluation of the loss: two steps of 0.5 times a difference of losses below 1.
        assert 0 < abs(float(kept[0] - kept[1])) < 0.5


@pytest.mark.parametrize(
    ("usage", "method", "options"),
    [
        ("linear_probe", "group_dro", {}),
        ("mlp_probe", "erm", {"dropout": 0.5}),
        ("mlp_probe", "group_dro", {"dropout": 0.5, "mitigation_options": {"balanced": False}}),
        ("mlp_probe", "laftr", {}),
        ("lora", "group_dro", {"lora_dropout": 0.2}),
    ],
)
def test_a_killed_training_ends_as_one_that_was_not(
    usage: str, method: str, options: dict[str, Any], xray_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"demo_clip_classification_{usage}"
    whole, stopped = (copy_bundle(name, tmp_path / folder) for folder in ("whole", "stopped"))
    one = train(whole, xray_dir, method, epochs=4, **options)
    plain = GroupCodes.iteration_started

    def killed(self: GroupCodes, engine: Any) -> None:
        if engine.state.iteration == 2 * engine.state.epoch_length + 2:
            raise KeyboardInterrupt
        plain(self, engine)

    monkeypatch.setattr(GroupCodes, "iteration_started", killed)
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        train(stopped, xray_dir, method, epochs=4, **options)
    monkeypatch.setattr(GroupCodes, "iteration_started", plain)
    progress = stopped / "models" / "progress.pt"
    content = torch.load(progress, weights_only=True)["trainer"]
    assert content["iteration"] == 2 * content["epoch_length"]
    two = train(stopped, xray_dir, method, epochs=4, resume=str(progress), **options)
    assert equal(one, two)
    assert equal(one, two, "progress.pt", "model")
    states = [torch.load(folder / "progress.pt", weights_only=True) for folder in (one, two)]
    assert torch.equal(*(state["random"]["torch"] for state in states))
    assert states[0]["best"] == states[1]["best"]
    for key, value in states[0]["method"]["loss"].items():
        assert torch.equal(value, states[1]["method"]["loss"][key])


def test_a_training_does_not_go_on_with_another_method(bundle: Path, xray_dir: Path) -> None:
    models = train(bundle, xray_dir, "group_dro", epochs=1)
    with pytest.raises((RuntimeError, ValueError)) as caught:
        train(bundle, xray_dir, "reweighting", resume=str(models / "progress.pt"))
    assert "mitigation 'group_dro', this one is 'reweighting'" in chain(caught.value)


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(
    bundle: Path, xray_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = train(bundle, xray_dir, "group_dro", epochs=1)
    kept = {name: (before / name).read_bytes() for name in ("model.pt", "progress.pt")}
    from fairmedfm_monai.losses.group_dro import GroupDROLoss

    monkeypatch.setattr(GroupDROLoss, "compute", lambda _, pred, *__: pred.sum() * torch.nan)
    with pytest.raises((RuntimeError, FloatingPointError)) as caught:
        train(bundle, xray_dir, "group_dro", resume=str(before / "progress.pt"))
    assert "nan_batch.json" in chain(caught.value)
    assert len(json.loads((before / "nan_batch.json").read_text(encoding="utf-8"))["case_ids"]) == 8
    assert kept == {name: (before / name).read_bytes() for name in kept}


def test_half_of_the_attribute_may_be_missing_and_a_group_absent(bundle: Path, xray_dir: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(xray_dir, tmp_path / "data"))
    table = pd.read_csv(data / "manifest.csv", dtype=str)
    card = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    column = card["attributes"]["race"]["column"]
    train_rows = table.index[table["split"] == "train"]
    table.loc[train_rows[::2], column] = ""
    asian = card["attributes"]["race"]["groups"]["asian"]
    table.loc[(table["split"] == "train") & table[column].isin(asian), column] = ""
    table.to_csv(data / "manifest.csv", index=False)
    for method in ("resampling", "reweighting", "group_dro", "fairness_constraint", "laftr"):
        options = {} if method != "resampling" else METHODS[method]
        models = train(bundle, data, method, **{**options, "mitigation_attributes": "race", "batch_size": 5})
        about = json.loads((models / "model.json").read_text(encoding="utf-8"))["mitigation"]
        assert about["groups"]["asian"] == 0
        assert about["unknown"] >= 12
        assert all(torch.isfinite(item).all() for item in torch.load(models / "model.pt", weights_only=True).values())


@pytest.mark.parametrize("needs", [False, True])
def test_the_model_card_names_the_method_and_what_inference_needs(
    needs: bool, bundle: Path, xray_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Method, "needs_attribute_at_inference", needs)
    models = train(bundle, xray_dir, "domain_independent")
    about = json.loads((models / "model.json").read_text(encoding="utf-8"))["mitigation"]
    assert about["needs_attribute_at_inference"] is needs
    run(bundle, "evaluate", dataset_dir=str(xray_dir), tracking_uri="off", n_bootstrap=0)
    told = f"domain_independent by race; needs {'the' if needs else 'no'} attribute at inference"
    assert f"- mitigation: {told}" in (bundle / "eval" / "model_card.md").read_text(encoding="utf-8")
    assert told in (bundle / "eval" / "report.html").read_text(encoding="utf-8")
    assert told in json.loads((bundle / "eval" / "run.json").read_text(encoding="utf-8"))["tags"]["mitigation"]


@pytest.mark.full
@pytest.mark.parametrize(
    ("usage", "method"),
    [
        *(("mlp_probe", method) for method in ("group_dro", "laftr", "domain_independent", "reweighting")),
        ("lora", "group_dro"),
    ],
)
def test_two_processes_train_as_one(usage: str, method: str, xray_dir: Path, tmp_path: Path) -> None:
    name = f"demo_clip_classification_{usage}"
    one, two = (copy_bundle(name, tmp_path / folder) for folder in ("one", "two"))
    draws = {} if method == "group_dro" else {"epochs": 1, "batch_size": 24}
    train(one, xray_dir, method, **draws)
    options = {"weights": "tiny", "epochs": 2, "batch_size": 4, "mitigation": method, **METHODS[method]}
    options |= {"epochs": 1, "batch_size": 12} if draws else {}
    given = [f"--{key}={value}" for key, value in {**options, "dataset_dir": xray_dir, "tracking_uri": "off"}.items()]
    torchrun(two, *given)
    states = [torch.load(folder / "models" / "progress.pt", weights_only=True) for folder in (one, two)]
    for part in (lambda state: state["model"], lambda state: state["method"]["loss"]):
        first, second = map(part, states)
        assert list(first) == list(second)
        for key in first:
            torch.testing.assert_close(first[key], second[key], rtol=0, atol=1e-5)
