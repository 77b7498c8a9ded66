"""Networks against the tensor names and shapes of the published checkpoints (tests/keys, see tests/NOTICE)."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.encoders.clip import CLIPEncoder, rename_clip
from fairmedfm_monai.networks.segmenters.medsam import MedSamSegmenter
from fairmedfm_monai.networks.segmenters.sam import SamSegmenter

KEYS = Path(__file__).parents[1] / "keys"


def read_keys(name: str) -> dict[str, Tensor]:
    with (KEYS / f"{name}.tsv").open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    shapes = [[] if shape == "scalar" else [int(edge) for edge in shape.split("x")] for _, shape, _ in rows]
    return {
        row[0]: torch.empty(shape, dtype=getattr(torch, row[2]), device="meta")
        for row, shape in zip(rows, shapes, strict=True)
    }


CLIP = {
    "clip_vitb32": ("ViT-B-32-quickgelu", 302),
    "clip_vitb16": ("ViT-B-16-quickgelu", 302),
    "clip_vitl14": ("ViT-L-14-quickgelu", 446),
    "clip_rn50": ("RN50-quickgelu", 489),
}
SAM = {"sam_vit_b": ("vit_b", 314), "sam_vit_l": ("vit_l", 482), "sam_vit_h": ("vit_h", 594)}


@pytest.mark.parametrize("name", CLIP)
def test_clip_takes_every_tensor_of_openais_checkpoints(name: str) -> None:
    variant, count = CLIP[name]
    keys = read_keys(name)
    assert len(keys) == count
    with torch.device("meta"):
        encoder = CLIPEncoder(variant, "random")
    load_checked(encoder, rename_clip(keys), origin=name)
    assert len(encoder.state_dict()) == count


@pytest.mark.parametrize("name", SAM)
def test_sam_takes_every_tensor_of_the_published_checkpoints(name: str) -> None:
    variant, count = SAM[name]
    keys = read_keys(name)
    assert len(keys) == count
    with torch.device("meta"):
        segmenter = SamSegmenter(variant, "random")
    load_checked(segmenter, keys, origin=name)
    assert list(segmenter.state_dict()) == list(keys)


def test_medsam_takes_every_tensor_of_its_checkpoint() -> None:
    with torch.device("meta"):
        segmenter = MedSamSegmenter("random")
    load_checked(segmenter, read_keys("medsam"), origin="medsam")


def test_a_checkpoint_of_another_size_is_refused_with_the_first_mismatches() -> None:
    with torch.device("meta"):
        segmenter = SamSegmenter("vit_b", "random")
    with pytest.raises(WeightsError, match=r"another model than SamSegmenter: \d+ of 314 tensors match") as caught:
        load_checked(segmenter, read_keys("sam_vit_l"), origin="sam_vit_l.pth")
    message = str(caught.value)
    assert "0 missing, 168 unexpected" in message
    assert "image_encoder.pos_embed is (1, 64, 64, 1024), not (1, 64, 64, 768)" in message


def test_a_checkpoint_of_another_family_is_refused() -> None:
    with torch.device("meta"):
        encoder = CLIPEncoder("ViT-B-32-quickgelu", "random")
    with pytest.raises(WeightsError, match="0 of 302 tensors match, 302 missing, 314 unexpected"):
        load_checked(encoder, rename_clip(read_keys("sam_vit_b")), origin="sam")
