from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from torch import nn

from fairmedfm_monai.data import load_dataset
from fairmedfm_monai.data.home import home
from fairmedfm_monai.handlers import GroupCodes
from fairmedfm_monai.handlers.privacy import hash_id, private_salt
from fairmedfm_monai.mitigation import make_method


def trainer(xray_dir: Path, folder: Path, name: str, *, spoil: int = -1, **options: Any) -> tuple[Any, nn.Module]:
    """Two batches of 12 cases whose images are three numbers; case ``spoil`` has a NaN among them."""
    info = load_dataset(xray_dir)
    cases = [{**case, "image": torch.full((3,), 1.0 * index)} for index, case in enumerate(info.cases("train"))]
    if spoil >= 0:
        cases[spoil]["image"][0] = torch.nan
    network = nn.Linear(3, 2)
    method = make_method(name, info)
    engine = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(cases, batch_size=12),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.001),
        loss_function=method.loss(nn.CrossEntropyLoss(), network=network),
        train_handlers=[GroupCodes(method, folder=folder, **options)],
    )
    return engine, network


@pytest.mark.parametrize("name", ["erm", "resampling", "group_dro", "laftr"])
def test_the_loss_is_told_the_groups_of_each_batch(name: str, xray_dir: Path, tmp_path: Path) -> None:
    engine, _ = trainer(xray_dir, tmp_path, name)
    given: list[list[int]] = []
    loss = engine.loss_function
    if hasattr(loss, "set_codes"):
        plain = loss.set_codes

        def noted(codes: torch.Tensor) -> None:
            given.append(codes.tolist())
            plain(codes)

        loss.set_codes = noted
    engine.run()
    info = load_dataset(xray_dir)
    codes = [info.attributes["sex"].index(case["attributes"]["sex"]) for case in info.cases("train")]
    assert given == ([codes[:12], codes[12:]] if name in {"group_dro", "laftr"} else [])


@pytest.mark.parametrize("name", ["erm", "group_dro"])
@pytest.mark.parametrize("log_cases", [True, False])
def test_a_loss_that_is_no_number_stops_and_names_the_batch(
    name: str, log_cases: bool, xray_dir: Path, tmp_path: Path
) -> None:
    engine, _ = trainer(xray_dir, tmp_path / "models", name, spoil=15, log_cases=log_cases)
    with pytest.raises(FloatingPointError, match=r"became nan in epoch 1, iteration 2: .*nan_batch\.json"):
        engine.run()
    content = json.loads((tmp_path / "models" / "nan_batch.json").read_text(encoding="utf-8"))
    ids = [case["case_id"] for case in load_dataset(xray_dir).cases("train")][12:]
    salt = private_salt(home())
    assert content["case_ids"] == (ids if log_cases else [hash_id(case_id, salt) for case_id in ids])
    assert (content["hashed"], content["iteration"], content["loss"]) == (not log_cases, 2, "nan")


def test_an_infinite_loss_stops_too(xray_dir: Path, tmp_path: Path) -> None:
    engine, network = trainer(xray_dir, tmp_path, "erm")
    engine.loss_function = lambda pred, label: pred.sum() * torch.inf
    with pytest.raises(FloatingPointError, match="inf"):
        engine.run()
    assert isinstance(network, nn.Linear)


@pytest.mark.parametrize(("name", "groups"), [("erm", ""), ("group_dro", " (female 2, male 1)")])
def test_cases_that_others_stood_in_for_are_counted_at_the_end(
    name: str, groups: str, xray_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine, _ = trainer(xray_dir, tmp_path, name)
    cases = load_dataset(xray_dir).cases("train")
    of = {sex: [case["case_id"] for case in cases if case["attributes"]["sex"] == sex] for sex in ("female", "male")}
    for place, case_id in ((0, of["female"][0]), (7, of["female"][1]), (20, of["male"][0]), (21, of["male"][0])):
        engine.data_loader.dataset[place]["failed"] = f"{case_id}: no such file: gone"
    with caplog.at_level(logging.WARNING):
        engine.run()
    told = [record.message for record in caplog.records if "could not be used" in record.message]
    assert len(told) == 1
    assert told[0].startswith(f"3 training cases could not be used{groups}: ")
    assert "in 4 of the 24 draws" in told[0]


def test_nothing_is_said_where_every_case_was_read(
    xray_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine, _ = trainer(xray_dir, tmp_path, "group_dro")
    with caplog.at_level(logging.WARNING):
        engine.run()
    assert not [record for record in caplog.records if "could not be used" in record.message]
