"""Cards that a classification bundle cannot work with: told with class and file before anything is encoded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairmedfm_monai.data.features import FeatureDataset
from fairmedfm_monai.networks.encoders.demo_clip import DemoCLIP
from tests.bundle.runs import run
from tests.bundle.toy_cases import make_toy
from tests.bundle.usage_bundles import write_bundle

TEXTUAL = {"zero_shot": "evaluate", "prototypes": "train", "adapter": "train"}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for owner, name in ((DemoCLIP, "encode_text"), (DemoCLIP, "encode_image"), (FeatureDataset, "encode")):
        monkeypatch.setattr(owner, name, lambda *_: pytest.fail("nothing may be encoded"))
    return make_toy(tmp_path / "toy")


def _change_classes(folder: Path, classes: object) -> Path:
    card = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    (folder / "dataset.json").write_text(json.dumps(card | {"classes": classes}))
    return folder


def _message(usage: str, config: str, data: Path, folder: Path) -> str:
    with pytest.raises((RuntimeError, ValueError)) as caught:
        run(write_bundle(usage, folder), config, weights="tiny", dataset_dir=str(data), tracking_uri="off")
    error: BaseException = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


@pytest.mark.parametrize("usage", TEXTUAL)
@pytest.mark.parametrize("prompts", [[], [""], ""])
def test_a_class_without_prompts(usage: str, prompts: object, toy: Path, tmp_path: Path) -> None:
    data = _change_classes(toy, {"class_0": ["nothing"], "class_1": prompts})
    message = _message(usage, TEXTUAL[usage], data, tmp_path)
    assert str(data) in message
    assert "dataset.json" in message
    assert "'class_1'" in message


@pytest.mark.parametrize("usage", [*TEXTUAL, "linear_probe"])
def test_one_class(usage: str, toy: Path, tmp_path: Path) -> None:
    data = _change_classes(toy, {"class_1": ["a nodule"]})
    message = _message(usage, TEXTUAL.get(usage, "train"), data, tmp_path)
    assert str(data) in message
    assert "`classes` of dataset.json must map at least two" in message
    assert "there is only class_1" in message
