"""What runs say of their weights and data, from the catalog to every output."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fairmedfm_monai.bundle import settings
from fairmedfm_monai.catalog import find_row
from tests.bundle.runs import BUNDLES, copy_bundle, run

LOGGER = "fairmedfm_monai.bundle.settings"


@pytest.mark.parametrize(
    ("fm", "release", "said"),
    [
        ("gloria", "chexpert", "GLoRIA was trained on images of CheXpert; results"),
        ("lvm_med", "ham10000", "LVM-Med was trained on images of HAM10000; results"),
        ("lvm_med", "ham10000_seg", "on images of HAM10000 (the images of HAM10000 with lesion masks); results"),
    ],
)
def test_data_that_the_model_has_seen_are_stamped(fm: str, release: str, said: str) -> None:
    for weights in ("pretrained", "file", "/some/where.pt"):
        [stamp] = settings.stamps(weights, fm=fm, release=release)
        assert stamp.startswith("training data overlap: ")
        assert said in stamp


def test_data_that_the_model_has_not_seen_are_not_stamped() -> None:
    assert settings.stamps("pretrained", fm="gloria", release="mimic_cxr") == []
    assert settings.stamps("pretrained", fm="gloria", release=None) == []
    assert settings.stamps("pretrained", fm="gloria", release="somewhere_else") == []


def test_weights_made_at_random_have_seen_nothing() -> None:
    for weights in ("random", "tiny"):
        assert settings.stamps(weights, fm="gloria", release="chexpert") == [settings.WEIGHT_STAMPS[weights]]


def test_overlap_and_untrained_prompts_are_said_together() -> None:
    found = settings.stamps("pretrained", fm="medsam", release="kits23", prompts=["box", "point"])
    assert [text.split(":")[0] for text in found] == ["training data overlap", "untrained prompt"]


@pytest.mark.parametrize(("fm", "said"), [("monet", "commercial use: no"), ("plip", "unstated; commercial use")])
def test_a_restricted_licence_gives_one_warning(fm: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        settings.warn_of_licence("pretrained", fm=fm)
    [record] = caplog.records
    assert said in record.message


@pytest.mark.parametrize(("fm", "weights"), [("siglip", "pretrained"), ("monet", "tiny"), ("monet", "random")])
def test_free_weights_and_random_ones_give_none(fm: str, weights: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        settings.warn_of_licence(weights, fm=fm)
    assert not caplog.records


def test_one_of_several_processes_warns(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        settings.warn_of_licence("pretrained", fm="monet")
    assert not caplog.records


def _with_release(source: Path, target: Path, release: str) -> Path:
    shutil.copytree(source, target)
    card = json.loads((target / "dataset.json").read_text(encoding="utf-8"))
    (target / "dataset.json").write_text(json.dumps({**card, "release": release}))
    return target


@pytest.mark.parametrize(
    ("bundle", "config"),
    [
        ("medclip_classification_zero_shot", "evaluate"),
        ("moco_cxr_classification_linear_probe", "train"),
        ("moco_cxr_classification_linear_probe", "evaluate"),
    ],
)
def test_a_bundle_tells_it_by_its_tags_and_warns_first(
    bundle: str, config: str, xray_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(BUNDLES / bundle / "configs" / f"{config}.json"))
    parser["dataset_dir"] = str(_with_release(xray_dir, tmp_path / "data", "chexpert"))
    parser["bundle_root"] = str(tmp_path)
    tags = parser.get_parsed_content("tags")
    assert "training data overlap" in tags["stamps"][0]
    assert tags["weights_licence"] == "unstated; commercial use: unstated"
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        parser.get_parsed_content("initialize#1")
    assert [record.name for record in caplog.records] == [LOGGER]


def test_every_output_of_a_run_says_it(
    xray_dir: Path, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    seen = replace(find_row("demo_clip"), overlaps=("chexpert",), commercial_use="no")
    monkeypatch.setattr(settings, "find_row", lambda name: seen)
    data = _with_release(xray_dir, tmp_path / "data", "chexpert")
    bundle = copy_bundle("demo_clip_classification_zero_shot", tmp_path)
    run(
        bundle,
        "evaluate",
        dataset_dir=str(data),
        tracking_uri=tracking_uri,
        experiment_name="overlap",
        n_bootstrap=0,
    )
    overlap = "training data overlap: Demo CLIP was trained on images of CheXpert"
    licence = "Weights licence: CC-BY-3.0; commercial use: no"
    for name in ("report.html", "model_card.md"):
        text = (bundle / "eval" / name).read_text(encoding="utf-8")
        assert text.count(overlap) == 1
        assert text.count(licence) == 1
    content = json.loads((bundle / "eval" / "run.json").read_text(encoding="utf-8"))
    assert content["banners"][0].startswith(overlap)
    assert content["tags"]["weights_licence"] == "CC-BY-3.0; commercial use: no"
    client = MlflowClient(tracking_uri)
    [logged] = client.search_runs([client.get_experiment_by_name("overlap").experiment_id])
    assert logged.data.tags["stamps"].startswith(overlap)
    assert logged.data.tags["weights_licence"] == "CC-BY-3.0; commercial use: no"
