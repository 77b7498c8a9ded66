from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from fairmedfm_monai.bundle.model_info import RECORDED_PACKAGES, ModelInfo, read_model_info
from fairmedfm_monai.catalog import rows


def _info(**changes: object) -> ModelInfo:
    values = {"fm": "clip", "usage": "linear_probe", "variant": "RN50", "weights": "tiny", "classes": ["a", "b"]}
    return ModelInfo(**{**values, **changes})


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    _info(seed=3).write(tmp_path)
    info = read_model_info(tmp_path / "model.pt", fm="clip", usage="linear_probe")
    assert (info.classes, info.seed, info.trained, info.geometry) == (["a", "b"], 3, True, "tiny")
    assert info.versions["torch"]


def test_versions_of_all_packages_that_build_a_network_are_recorded(tmp_path: Path) -> None:
    assert {package for row in rows().values() for package in row.packages} <= set(RECORDED_PACKAGES)
    versions = json.loads(_info().write(tmp_path).read_text(encoding="utf-8"))["versions"]
    assert versions["timm"][0].isdigit()


def test_a_path_to_weights_is_not_kept(tmp_path: Path) -> None:
    _info(weights="/home/someone/clip.pt").write(tmp_path)
    assert "someone" not in (tmp_path / "model.json").read_text(encoding="utf-8")
    assert read_model_info(tmp_path / "model.pt").geometry == "random"


def test_without_a_file_the_untrained_description_serves(tmp_path: Path) -> None:
    info = read_model_info(
        tmp_path / "model.pt", fm="clip", usage="lora", variant="RN50", weights="random", classes=["x", "y"]
    )
    assert not info.trained
    assert info.classes == ["x", "y"]


def test_a_model_of_another_bundle_is_refused(tmp_path: Path) -> None:
    _info().write(tmp_path)
    with pytest.raises(ValueError, match="describes fm 'clip', this bundle is for 'demo_clip'"):
        read_model_info(tmp_path / "model.pt", fm="demo_clip", usage="linear_probe")


def test_a_file_that_is_no_model_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"hello": 1}))
    with pytest.raises(ValueError, match=r"must be a model\.json"):
        read_model_info(tmp_path / "model.pt")


def test_classes_of_another_dataset_are_refused() -> None:
    with pytest.raises(ValueError, match=r"trained for the classes \['a', 'b'\] but dataset 'other' has \['b', 'a'\]"):
        _info().classes_for(SimpleNamespace(name="other", classes=["b", "a"]))


def _metadata(root: Path, names: list[str]) -> Path:
    file = root / "configs" / "metadata.json"
    file.parent.mkdir(exist_ok=True)
    pred = {"num_channels": len(names), "channel_def": {str(index): name for index, name in enumerate(names)}}
    file.write_text(json.dumps({"name": "bundle", "network_data_format": {"outputs": {"pred": pred}}}))
    return file


def test_servers_learn_the_names_of_other_classes(tmp_path: Path) -> None:
    file = _metadata(tmp_path, ["no_finding", "finding"])
    _info(classes=["x", "y", "z"]).name_outputs(tmp_path)
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["network_data_format"]["outputs"]["pred"] == {
        "num_channels": 3,
        "channel_def": {"0": "x", "1": "y", "2": "z"},
    }
    assert content["name"] == "bundle"


def test_metadata_that_is_right_is_left_alone(tmp_path: Path) -> None:
    file = _metadata(tmp_path, ["a", "b"])
    text = file.read_text(encoding="utf-8")
    _info().name_outputs(tmp_path)
    assert file.read_text(encoding="utf-8") == text


def test_a_folder_without_metadata_is_no_error(tmp_path: Path) -> None:
    _info().name_outputs(tmp_path)
    assert not list(tmp_path.iterdir())
