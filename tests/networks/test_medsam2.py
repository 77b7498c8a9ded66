"""MedSAM2 against recordings of its authors' code on equal seeded weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import load_checked
from fairmedfm_monai.networks.segmenters.medsam2 import FILES, MedSam2Segmenter
from fairmedfm_monai.networks.segmenters.sam2 import rename_sam2
from tests.networks import parity
from tests.networks.test_keys import read_keys

KEYS = "medsam2_sam2.1_hiera_t512"
TOLERANCE = 1e-4
# Memories are kept in bfloat16: a rounding that falls to the other side moves masks by some 1e-4.
TRACKING_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return parity.read("medsam2")


@pytest.fixture(scope="module")
def outputs(record: dict[str, Any]) -> dict[str, Tensor]:
    segmenter = MedSam2Segmenter(weights="random")
    shapes = {name: tensor.shape for name, tensor in read_keys(KEYS).items()}
    load_checked(segmenter, rename_sam2(parity.seeded_state(shapes, record["weight_seed"])), origin="seeded")
    with torch.no_grad():
        return {**image_outputs(segmenter, record), **volume_outputs(segmenter, record)}


def image_outputs(segmenter: MedSam2Segmenter, record: dict[str, Any]) -> dict[str, Tensor]:
    embedding = segmenter.embed(parity.seeded_input((3, 512, 512), record["image_seed"]).round()[None])
    outputs = {"embedding": embedding.features}
    outputs |= {f"high_res_{level}": tensor for level, tensor in enumerate(embedding.high_res)}

    def run(name: str, coords: Any, labels: list[int], masks: Tensor | None = None) -> Tensor:
        prompt = torch.tensor(coords).view(1, 1, -1, 2), torch.tensor(labels).view(1, 1, -1)
        low_res, iou = segmenter.decode_low_res(embedding, *prompt, masks)
        outputs[f"{name}_low_res"], outputs[f"{name}_iou"] = low_res[0, 0], iou[0]
        if name in {"point", "box"}:
            outputs[f"{name}_mask"] = segmenter.upscale(low_res, embedding)[0, 0]
        return low_res

    run("point", record["points"][:1], record["point_labels"][:1])
    run("points", record["points"], record["point_labels"])
    run("box_mask", record["box"], [2, 3], run("box", record["box"], [2, 3]))
    return outputs


def volume_outputs(segmenter: MedSam2Segmenter, record: dict[str, Any]) -> dict[str, Tensor]:
    """A box on the middle slice of five, propagated both ways."""
    volume = parity.seeded_input((5, 80, 112), record["volume_seed"]).round()
    box = torch.tensor(record["frame_box"]).view(1, 2, 2), torch.tensor([[2, 3]])
    tracked = segmenter.track(lambda index: volume[index].expand(3, -1, -1), range(5), {record["prompted_frame"]: box})
    return {f"frame_{index}": logits[0] for index, logits in tracked}


@pytest.mark.parametrize("part", ["image", "volume"])
def test_outputs_are_the_authors(record: dict[str, Any], outputs: dict[str, Tensor], part: str) -> None:
    names = {name for name in record["outputs"] if name.startswith("frame") == (part == "volume")}
    assert len(names) == {"image": 13, "volume": 5}[part]
    parity.compare(
        {"outputs": {name: record["outputs"][name] for name in names}},
        {name: outputs[name] for name in names},
        tolerance=TOLERANCE if part == "image" else TRACKING_TOLERANCE,
    )


@pytest.mark.parametrize("variant", FILES)
def test_every_variant_takes_every_tensor_of_the_authors_file(variant: str) -> None:
    keys = read_keys(KEYS)
    assert len(keys) == 471
    with torch.device("meta"):
        segmenter = MedSam2Segmenter(variant, "random")
    load_checked(segmenter, rename_sam2(keys), origin=variant)
    assert segmenter.source(variant).names == (FILES[variant],)


class TestTiny:
    @pytest.fixture(scope="class")
    def tiny(self) -> MedSam2Segmenter:
        return MedSam2Segmenter(weights="tiny")

    def test_images_are_squashed_as_in_the_authors_scripts(self, tiny: MedSam2Segmenter) -> None:
        grey = np.random.default_rng(0).integers(0, 256, (61, 90), dtype=np.uint8)
        resized = np.array(Image.fromarray(grey).convert("RGB").resize((512, 512))) / 255.0
        expected = (resized - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        prepared = tiny.preprocess(torch.from_numpy(grey).expand(1, 3, -1, -1).float())
        assert np.abs(prepared[0].permute(1, 2, 0).numpy() - expected).max() < 1e-5

    def test_it_keeps_the_input_and_is_small(self, tiny: MedSam2Segmenter) -> None:
        assert tiny.input_spec.size == 512
        assert tiny(torch.zeros(1, 3, 30, 40)).shape == (1, 1, 30, 40)
        assert sum(parameter.numel() for parameter in tiny.parameters()) < 1e6

    def test_an_unknown_variant_lists_the_known_ones(self) -> None:
        with pytest.raises(ValueError, match="latest, 2411, ct_lesion"):
            MedSam2Segmenter("lung")
