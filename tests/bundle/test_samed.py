"""The published FairSeg path end to end on a miniature of the release: SAMed, then its stage of error-bound scaling."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.transforms import CenterSpatialCrop
from PIL import Image

from fairmedfm_monai.bundle.protocols import prompt_free_protocol
from fairmedfm_monai.catalog import rows
from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from tests.bundle.runs import BUNDLES, chain, copy_bundle, run, tables
from tests.miniatures.fairseg import make

NAME = "sam_segmentation_lora"
# Four tokens along an edge in place of 32, and the decoder's own 16 pixels in place of 128.
SMALL: dict[str, Any] = {"weights": "tiny", "image_size": 256, "loss_size": 16, "batch_size": 16, "tracking_uri": "off"}
STAGE_1 = {"protocol": "fairseg", "select_by": "last", "epochs": 3, "stop_epoch": 1, "warmup_steps": 1}
STAGE_2 = {
    **STAGE_1,
    "warmup_steps": 0,
    "learning_rate": 5e-4,
    "seed": 5,
    "mitigation": "febs_published",
    "mitigation_attributes": "sex",
}


def workflow(bundle: Path, **overrides: Any) -> ConfigWorkflow:
    """A training, initialized and not yet run."""
    found = ConfigWorkflow(
        config_file=str(bundle / "configs" / "train.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle),
        **(SMALL | overrides),
    )
    found.initialize()
    return found


def content(found: ConfigWorkflow, name: str) -> Any:
    return found.parser.get_parsed_content(name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared folder under the protocol fairseg: the owner's lists, no validation."""
    folder, dataset = tmp_path_factory.mktemp("fairseg"), find_dataset("fairseg")
    choice = dataset.choose(protocol="fairseg")
    raw = make(folder / "raw", overview=False)
    return Path(prepare_dataset(dataset, raw, folder / "out", choice=choice, workers=1, progress=False).folder)


@pytest.fixture(scope="module")
def stages(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both stages, and what the network said at the end of the first and at the begin of the second."""
    bundle = copy_bundle(NAME, tmp_path_factory.mktemp("bundle"))
    one, two = bundle / "stage1", bundle / "stage2"
    inputs = torch.rand(2, 3, 48, 64) * 255, torch.tensor([[48, 64]] * 2)
    first = workflow(bundle, dataset_dir=str(data), ckpt_dir=str(one), **STAGE_1)
    first.run()
    start = {"start_from": str(one / "model.pt"), "ckpt_dir": str(two)}
    second = workflow(bundle, dataset_dir=str(data), **STAGE_2, **start)
    with torch.no_grad():
        said = [content(found, "network").eval()(*inputs) for found in (first, second)]
    trains = [
        {name for name, parameter in content(found, "network").named_parameters() if parameter.requires_grad}
        for found in (first, second)
    ]
    second.run()
    return {"bundle": bundle, "one": one, "two": two, "said": said, "trains": trains, "runs": (first, second)}


def test_stage_2_begins_where_stage_1_ended_and_trains_the_same(stages: dict[str, Any]) -> None:
    assert torch.equal(*stages["said"])
    assert stages["trains"][0] == stages["trains"][1]
    before, after = (torch.load(stages[stage] / "model.pt", weights_only=True) for stage in ("one", "two"))
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    parts = {".".join(name.split(".")[1:3]) for name in changed}
    assert parts >= {"image_encoder.blocks", "prompt_encoder.no_mask_embed", "mask_decoder.mask_tokens"}
    assert {name for name in changed if "image_encoder" in name} == {
        f"segmenter.image_encoder.blocks.{block}.attn.qkv.weight" for block in (0, 1)
    }


def test_each_stage_has_its_own_schedule_loss_and_end(stages: dict[str, Any]) -> None:
    first, second = stages["runs"]
    iterations = len(content(first, "train#dataloader"))
    assert iterations == 2
    for found, warmup, base in ((first, 1, 0.005), (second, 0, 5e-4)):
        optimizer, trainer = content(found, "optimizer"), content(found, "train#trainer")
        assert (trainer.state.epoch, trainer.state.iteration) == (1, iterations)  # of three, stopped after one
        assert optimizer.defaults["betas"] == (0.9, 0.999)
        assert optimizer.defaults["weight_decay"] == 0.1
        expected = base * (1 - (iterations - warmup) / (3 * iterations)) ** 0.9
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
    assert content(second, "loss").published
    assert content(second, "method").options["gamma"] == 1.0


def test_model_json_says_how_the_input_is_made(stages: dict[str, Any]) -> None:
    info = json.loads((stages["two"] / "model.json").read_text(encoding="utf-8"))
    assert info["settings"] == {"protocol": "fairseg", "image_size": 256}
    segmenter = content(stages["runs"][1], "network_def").segmenter
    image = torch.randint(0, 256, (1, 3, 256, 256)).float()
    assert torch.equal(segmenter.preprocess(image), image / 255)


def test_the_evaluation_tells_equity_scaled_scores_of_rim_cup_and_disc(stages: dict[str, Any], data: Path) -> None:
    bundle, output = stages["bundle"], stages["bundle"] / "eval"
    options = {"ckpt_dir": str(stages["two"]), "split": ["test"], "nsd_tolerance": 5, "n_bootstrap": 0}
    run(bundle, "evaluate", dataset_dir=str(data), output_dir=str(output), tracking_uri="off", **options)
    predictions, subgroups, disparities = tables(output)
    assert set(predictions["nsd_tolerance"]) == {5.0}
    whole = subgroups[subgroups["attribute"] == "overall"].set_index(["label", "metric"])["value"]
    for label, (metric, statistic) in (
        (label, pair)
        for label in ("rim", "cup", "disc")
        for pair in [(m, s) for m in ("dice", "iou") for s in ("es_sum", "es_std", "es_std_sample")]
    ):
        own = predictions[predictions["label"] == label]
        groups, mean = own.groupby("sex")[metric].mean(), own[metric].mean()
        penalty = {
            "es_sum": (groups - mean).abs().sum(),  # as published: the sum over groups
            "es_std": groups.std(ddof=0),
            "es_std_sample": groups.std(ddof=1),
        }[statistic]
        row = disparities.query(
            "label == @label and metric == @metric and statistic == @statistic and attribute == 'sex'"
        )
        assert row["value"].item() == pytest.approx(mean / (1 + penalty))
        assert {"hd95", "hd95_pooled", "nsd"} <= set(whole[label].index)
    told = json.loads((output / "run.json").read_text(encoding="utf-8"))["tags"]
    assert told["protocol"] == "fairseg"
    assert told["mitigation"].startswith("febs_published by sex")
    # The mean over labels is of the masks' labels: the disc would count rim and cup twice.
    both = predictions[predictions["label"].isin(["rim", "cup"])]
    assert whole["", "dice"] == pytest.approx(both.groupby("case_id")["dice"].mean().mean())
    counts = predictions.pivot_table(index="case_id", columns="label", values="n_ref_voxels")
    assert (counts["disc"] == counts["rim"] + counts["cup"]).all()


def test_masks_of_inference_lie_on_the_whole_image(stages: dict[str, Any], data: Path, tmp_path: Path) -> None:
    config = json.loads((BUNDLES / NAME / "configs" / "inference.json").read_text(encoding="utf-8"))
    steps = [step["_target_"] for step in config["preprocessing"]["transforms"]]
    crop = {f"preprocessing#transforms#{steps.index('CenterSpatialCropd')}#roi_size": 32}
    options = {"ckpt_dir": str(stages["two"]), "tracking_uri": "off", "output_dir": str(tmp_path / "masks")}
    run(stages["bundle"], "inference", dataset_dir=str(data), **options, **crop)
    files = sorted((tmp_path / "masks").glob("*.nii.gz"))
    assert len(files) == 8
    inside = np.zeros((48, 64), bool)
    inside[8:40, 16:48] = True
    for file in files:
        mask = np.asarray(nibabel.load(file).dataobj).squeeze()
        assert mask.shape == inside.shape
        assert not mask[~inside].any()
        assert set(np.unique(mask)) <= {0, 1, 2}


def test_without_a_validation_split_something_else_must_choose(data: Path, tmp_path: Path) -> None:
    with pytest.raises((RuntimeError, ValueError)) as caught:
        workflow(copy_bundle(NAME, tmp_path), dataset_dir=str(data), protocol="fairseg")
    assert re.search("no case in split val.*--select_by last keeps the last epoch", chain(caught.value))


def test_a_wrong_start_is_refused_with_what_is_missing(stages: dict[str, Any], data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stages["one"], tmp_path / "other"))
    state = torch.load(folder / "model.pt", weights_only=True)
    state["segmenter.stranger"] = state.pop("segmenter.mask_decoder.iou_token.weight")
    torch.save(state, folder / "model.pt")
    options = {**STAGE_2, "dataset_dir": str(data), "ckpt_dir": str(tmp_path / "out")}
    with pytest.raises((RuntimeError, ValueError)) as caught:
        workflow(stages["bundle"], start_from=str(folder / "model.pt"), **options)
    assert re.search("start_from.*1 missing, 1 unexpected.*iou_token.*stranger", chain(caught.value))


def test_resume_wins_over_start_from(stages: dict[str, Any], data: Path, tmp_path: Path) -> None:
    """A killed stage 2 goes on from its own progress, with the same command line."""
    progress = shutil.copy(stages["two"] / "progress.pt", tmp_path)
    options = {**STAGE_2, "stop_epoch": 2, "dataset_dir": str(data), "ckpt_dir": str(tmp_path)}
    found = workflow(stages["bundle"], start_from=str(stages["one"] / "model.pt"), resume=str(progress), **options)
    state, stored = content(found, "network").state_dict(), torch.load(progress, weights_only=True)["model"]
    assert all(torch.equal(tensor, stored[name]) for name, tensor in state.items())


def test_the_protocol_is_published_and_nothing_else_has_it() -> None:
    found, default = prompt_free_protocol("fairseg"), prompt_free_protocol("default")
    picture = torch.arange(664 * 512).reshape(1, 664, 512)
    assert torch.equal(torch.as_tensor(CenterSpatialCrop(found.crop)(picture)), picture[:, 76:588])
    assert CenterSpatialCrop(default.crop)(picture).shape == picture.shape
    assert (default.pixel_mean, default.pixel_std, default.derived(["rim", "cup"])) == (None, None, {})
    assert found.derived(["rim", "cup"]) == {"disc": ["rim", "cup"]}
    assert found.derived(["disc"]) == {}
    with pytest.raises(ValueError, match="must be one of default, fairseg"):
        prompt_free_protocol("fairmedfm")
    with pytest.raises(ValueError, match="is for images, but the dataset holds volumes"):
        prompt_free_protocol("fairseg", 3)
    having = {
        name
        for row in rows().values()
        for name in row.bundles
        if row.task == "segmentation" and "image_size" in _keys(BUNDLES / name / "configs" / "train.json")
    }
    assert having == {NAME}


def _keys(file: Path) -> set[str]:
    return set(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else set()


def test_the_defaults_are_the_published_numbers() -> None:
    config = json.loads((BUNDLES / NAME / "configs" / "train.json").read_text(encoding="utf-8"))
    expected = {
        "lora_rank": 4,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "learning_rate": 0.005,
        "weight_decay": 0.1,
        "warmup_steps": 250,
        "decay_power": 0.9,
        "epochs": 100,
        "stop_epoch": 70,
        "protocol": "default",
        "image_size": None,
        "start_from": None,
    }
    assert {name: config[name] for name in expected} == expected


class TestAugmentation:
    """Half of the samples: one of the four reflections of a square. A quarter: turned by up to 20 degrees."""

    def test_it_is_drawn_as_published(self, stages: dict[str, Any]) -> None:
        from collections import Counter

        augment = content(stages["runs"][0], "train#preprocessing").transforms[1]
        augment.set_random_state(seed=0)
        side = torch.arange(1024.0).reshape(1, 32, 32)
        reflections = [torch.rot90(side, turns, (1, 2)).flip(1) for turns in range(4)]
        counts: Counter[Any] = Counter()
        for _ in range(400):
            image = torch.as_tensor(augment({"image": side, "label": side})["image"])
            found = [number for number, other in enumerate(reflections) if torch.equal(image, other)]
            counts[found[0] if found else "same" if torch.equal(image, side) else "turned"] += 1
        assert sum(counts[number] for number in range(4)) / 400 == pytest.approx(0.5, abs=0.08)
        assert min(counts[number] for number in range(4)) > 25
        # A turn by less than a degree or two leaves all pixels of so small a picture where they were.
        assert counts["turned"] / 400 == pytest.approx(0.25, abs=0.08)

    def test_pictures_and_masks_turn_together(self, stages: dict[str, Any], data: Path) -> None:
        augment = content(stages["runs"][0], "train#preprocessing").transforms[1]
        augment.set_random_state(seed=1)
        file = data / pd.read_csv(data / "manifest.csv")["mask"].iloc[0]
        with Image.open(file) as picture:
            mask = torch.from_numpy(np.asarray(picture).astype(np.float32))[None]
        for _ in range(20):
            item = augment({"image": mask, "label": mask})
            assert torch.equal(torch.as_tensor(item["image"]), torch.as_tensor(item["label"]))
