from __future__ import annotations

import re
from pathlib import Path

import pytest

from fairmedfm_monai.catalog import rows
from fairmedfm_monai.studies import cost
from fairmedfm_monai.studies.cell import Cell
from fairmedfm_monai.studies.cost import READ_SECONDS, RUN_SECONDS, estimate, view_seconds
from fairmedfm_monai.studies.sources import DEMOS, Facts

XRAY = DEMOS["xray"]
SIZES = {"train": 100, "val": 20, "test": 80}
# CPU seconds of one thread that were measured, see the module's docstring.
MEASURED = {
    ("dinov2", "vits14"): 0.171,
    ("clip", "ViT-B-32-quickgelu"): 0.115,
    ("biomedclip", "default"): 0.406,
    ("dinov2", "vitb14"): 0.539,
    ("retfound", "mae_natureCFP"): 1.616,
    ("moco_cxr", "resnet50"): 0.243,
    ("rad_dino", "default"): 3.992,
    ("sam", "vit_b"): 20.472,
    ("sam2", "tiny"): 4.907,
    ("mobile_sam", "default"): 2.175,
    ("sam_med3d", "default"): 1.571,
    ("merlin", "default"): 18.722,
    ("ct_fm", "default"): 31.241,
}


def cell(**changes: object) -> Cell:
    values = {"dataset": "xray", "task": "classification", "fm": "clip", "usage": "linear_probe", **changes}
    return Cell.from_json(values)


@pytest.mark.parametrize(("fm", "variant"), MEASURED)
def test_a_view_is_within_a_factor_of_two_of_what_was_measured(fm: str, variant: str) -> None:
    ratio = view_seconds(rows()[fm], variant) / MEASURED[fm, variant]
    assert 0.5 <= ratio <= 2


def test_the_docstring_tells_the_same_numbers() -> None:
    told = re.findall(r"^ {4}\S.*?(\d+\.\d+) +(\d+\.\d+)$", str(cost.__doc__), flags=re.MULTILINE)
    estimated = [view_seconds(rows()[fm], variant) for fm, variant in MEASURED]
    assert [float(measured) for measured, _ in told] == list(MEASURED.values())
    assert [float(value) for _, value in told] == pytest.approx(estimated, rel=0.01)


def test_features_of_the_documented_extraction() -> None:
    page = (Path(__file__).parents[2] / "docs" / "measurements.md").read_text(encoding="utf-8")
    peers = [float(text) for text in re.findall(r"^\| 512 \| [\d.]+ s \| ([\d.]+) s", page, flags=re.MULTILINE)]
    assert peers, "docs/measurements.md has no line of 512 images"
    on_two_cores = 2 * sum(peers) / len(peers)
    probe = cell(fm="dinov2", variant="vits14")
    assert estimate(probe, XRAY, {"train": 512}).encoding == pytest.approx(on_two_cores, rel=0.25)


def test_frozen_usages_share_one_encoding() -> None:
    costs = [estimate(cell(usage=usage), XRAY, SIZES, "folder") for usage in ("zero_shot", "linear_probe", "adapter")]
    assert len({each.shared for each in costs}) == 1
    assert {each.encoding for each in costs} == {200 * (view_seconds(rows()["clip"]) + READ_SECONDS)}
    other = estimate(cell(variant="ViT-B-16"), XRAY, SIZES, "folder")
    assert other.shared != costs[0].shared
    assert estimate(cell(), XRAY, SIZES, "elsewhere").shared != costs[0].shared


def test_training_the_encoder_pays_per_epoch_and_shares_nothing() -> None:
    once = estimate(cell(usage="lora", train={"epochs": 1}), XRAY, SIZES)
    thrice = estimate(cell(usage="lora", train={"epochs": 3}), XRAY, SIZES)
    image = view_seconds(rows()["clip"]) + READ_SECONDS
    assert (once.encoding, once.shared) == (0, ())
    assert thrice.own - once.own == pytest.approx(2 * (3 * 100 + 20) * image)
    assert once.own == pytest.approx((3 * 100 + 20) * image + 100 * image + 2 * RUN_SECONDS)


def test_epochs_that_are_not_overridden_are_the_bundles() -> None:
    assert estimate(cell(usage="lora"), XRAY, SIZES) == estimate(cell(usage="lora", train={"epochs": 10}), XRAY, SIZES)


def test_methods_after_training_cost_a_run_only() -> None:
    assert estimate(cell(mitigation="equalised_odds"), XRAY, SIZES).own == RUN_SECONDS


def test_slices_of_volumes_count() -> None:
    volumes = Facts("classification", "ct", 3, {})
    flat, deep = (estimate(cell(), facts, SIZES).encoding for facts in (XRAY, volumes))
    assert deep == pytest.approx(32 * flat)
    assert estimate(cell(fm="merlin"), volumes, {"test": 1}).encoding == pytest.approx(
        view_seconds(rows()["merlin"]) + READ_SECONDS
    )


def test_a_smaller_image_costs_its_share() -> None:
    masks = Facts("segmentation", "slo", 2, {})
    small, large = (
        estimate(cell(task="segmentation", fm="sam", usage="lora", train={"image_size": size}), masks, SIZES).own
        for size in (512, 1024)
    )
    assert small < large / 3


@pytest.mark.parametrize("name", rows())
def test_every_usage_of_every_model_has_a_cost(name: str) -> None:
    row = rows()[name]
    facts = Facts(row.task, "ct", 3 if row.is_volumetric else 2, {})
    for usage in row.usages:
        costs = estimate(cell(task=row.task, fm=name, usage=usage), facts, SIZES)
        assert costs.own + costs.encoding > 0
    for variant in row.variants:
        assert view_seconds(row, variant) > 0
