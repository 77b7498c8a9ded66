"""Where mask decoders end, in every family of segmenters: what methods put there is linear in the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairmedfm_monai.mitigation.mask_heads import last_layers, mask_features
from fairmedfm_monai.networks.segmenters.base import PromptableSegmenter
from fairmedfm_monai.networks.segmenters.demo_sam import DemoSAM
from fairmedfm_monai.networks.segmenters.fastsam3d import FastSam3dSegmenter
from fairmedfm_monai.networks.segmenters.medsam import MedSamSegmenter
from fairmedfm_monai.networks.segmenters.medsam2 import MedSam2Segmenter
from fairmedfm_monai.networks.segmenters.mobile_sam import MobileSamSegmenter, TinySamSegmenter
from fairmedfm_monai.networks.segmenters.sam import SamSegmenter
from fairmedfm_monai.networks.segmenters.sam2 import Sam2Segmenter
from fairmedfm_monai.networks.segmenters.sam_med2d import FtSamSegmenter, SamMed2dSegmenter
from fairmedfm_monai.networks.segmenters.sam_med3d import SamMed3dSegmenter
from fairmedfm_monai.networks.segmenters.segvol import SegVolSegmenter
from fairmedfm_monai.usages import PromptFreeSegmenter
from fairmedfm_monai.usages.prompt_free import token_masks
from fairmedfm_monai.usages.prompted_training import probe_image
from fairmedfm_monai.usages.segmenter_parts import part

FAMILIES = [
    DemoSAM,
    SamSegmenter,
    MedSamSegmenter,
    MobileSamSegmenter,
    TinySamSegmenter,
    FtSamSegmenter,
    SamMed2dSegmenter,
    Sam2Segmenter,
    MedSam2Segmenter,
    SamMed3dSegmenter,
    FastSam3dSegmenter,
    SegVolSegmenter,
]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_last_layers_answers_times_the_features(family: Callable[..., PromptableSegmenter]) -> None:
    """Of all mask tokens, without prompts; the product is taken here."""
    segmenter = family(weights="tiny")
    found, layers = mask_features(segmenter), last_layers(segmenter)
    assert found is not None
    assert layers is not None
    module, width = found
    features: list[Tensor] = []
    vectors: list[Tensor] = []
    module.register_forward_hook(lambda _, __, out: features.append(out) if out.shape[1] == width else None)
    for layer in layers.values():
        layer.register_forward_hook(lambda _, __, out: vectors.append(out.flatten(0, -2)))
    with torch.no_grad():
        masks = token_masks(segmenter, segmenter.embed(probe_image(segmenter)))
    tokens = len(part(segmenter, "mask_decoder").output_hypernetworks_mlps)  # type: ignore[arg-type]
    assert len(layers) == tokens
    assert masks.shape[1] == tokens
    weights = torch.cat(vectors[:tokens])
    torch.testing.assert_close(masks[0], torch.einsum("tc,c...->t...", weights, features[0][0]), rtol=1e-4, atol=1e-4)


def test_paths_are_those_of_the_whole_network() -> None:
    network = PromptFreeSegmenter(Sam2Segmenter(weights="tiny"), 2)
    layers = last_layers(network)
    assert layers is not None
    assert list(layers)[2] == "segmenter.sam2.mask_decoder.output_hypernetworks_mlps.2.proj_out"
    assert network.get_submodule(list(layers)[2]) is list(layers.values())[2]
    assert "mask_decoder.output_hypernetworks_mlps.0.layers.2" in (last_layers(DemoSAM("tiny")) or {})


@pytest.mark.parametrize("change", ["no list", "empty", "squashed", "another layer"])
def test_other_decoders_are_not_taken_for_it(change: str) -> None:
    segmenter: Any = DemoSAM("tiny")
    decoder = segmenter.mask_decoder
    if change == "no list":
        del decoder.output_hypernetworks_mlps
    elif change == "empty":
        decoder.output_hypernetworks_mlps = nn.ModuleList()
    elif change == "squashed":
        decoder.output_hypernetworks_mlps[0].sigmoid_output = True
    else:
        decoder.output_hypernetworks_mlps[0] = nn.Identity()
    assert last_layers(segmenter) is None


def test_a_decoder_without_upscaling_has_no_features() -> None:
    segmenter: Any = DemoSAM("tiny")
    segmenter.mask_decoder.output_upscaling = None
    assert mask_features(segmenter) is None
