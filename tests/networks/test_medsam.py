"""MedSAM against the steps of its own inference script, on segment-anything's network with equal weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from skimage import transform
from torch import Tensor
from torch.nn import functional

from fairmedfm_monai.networks.checkpoint import load_checked
from fairmedfm_monai.networks.segmenters import medsam
from fairmedfm_monai.networks.segmenters.medsam import MedSamSegmenter
from fairmedfm_monai.networks.segmenters.sam_builder import TINY, build_sam
from tests.networks import parity

BOXES = np.array([[20.0, 11.0, 61.0, 50.0], [3.0, 4.0, 88.0, 69.0]])


@pytest.fixture(scope="module")
def segmenter() -> MedSamSegmenter:
    torch.manual_seed(0)
    module = MedSamSegmenter("tiny")
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


@pytest.fixture(scope="module")
def sam(segmenter: MedSamSegmenter) -> Sam:
    model = build_sam(**TINY)
    model.load_state_dict(segmenter.state_dict())
    return model


def published(sam: Sam, image: NDArray[np.uint8], boxes: NDArray[np.float64]) -> Tensor:
    """Probability (P, H, W) of the procedure in MedSAM's inference script; its mask is what exceeds 0.5."""
    height, width = image.shape[:2]
    squashed = transform.resize(image, (1024, 1024), order=3, preserve_range=True, anti_aliasing=True).astype(np.uint8)
    scaled = (squashed - squashed.min()) / np.clip(squashed.max() - squashed.min(), a_min=1e-8, a_max=None)
    embedding = sam.image_encoder(torch.tensor(scaled).float().permute(2, 0, 1)[None])
    corners = torch.as_tensor(boxes / np.array([width, height, width, height]) * 1024, dtype=torch.float)[:, None]
    sparse, dense = sam.prompt_encoder(points=None, boxes=corners, masks=None)
    low_res, _ = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return functional.interpolate(torch.sigmoid(low_res), size=(height, width), mode="bilinear")[:, 0]


@torch.no_grad()
def test_masks_are_those_of_the_published_procedure(segmenter: MedSamSegmenter, sam: Sam) -> None:
    image = np.random.default_rng(0).integers(20, 200, (72, 96, 3), dtype=np.uint8)
    embedding = segmenter.embed(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    coords = torch.from_numpy(BOXES).view(1, 2, 2, 2)
    logits, _ = segmenter.decode(embedding, coords, torch.tensor([2, 3]).expand(1, 2, 2))
    probability = published(sam, image, BOXES)
    assert (logits[0].sigmoid() - probability).abs().max() <= 1e-5
    sure = (probability - 0.5).abs() > 1e-5  # beside the threshold rounding decides
    assert sure.float().mean() > 0.99
    assert torch.equal((logits[0] > 0)[sure], (probability > 0.5)[sure])
    assert 0.01 < (probability > 0.5).float().mean() < 0.99


@pytest.mark.parametrize("shape", [(60, 81), (200, 100)])
@pytest.mark.parametrize("grey", [True, False])
def test_resizing_channel_by_channel_gives_the_values_of_skimage(shape: tuple[int, int], grey: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 1 if grey else 3), dtype=np.uint8)
    image = np.broadcast_to(image, (*shape, 3))
    expected = transform.resize(image, (64, 64), order=3, preserve_range=True, anti_aliasing=True).astype(np.uint8)
    difference = np.abs(medsam._squash(image, 64).astype(int) - expected)
    assert (difference > 0).mean() < 1e-3  # a value within rounding of a whole grey level
    assert difference.max() <= 1


def test_texts_are_refused(segmenter: MedSamSegmenter) -> None:
    embedding = segmenter.embed(torch.zeros(1, 3, 20, 20))
    with pytest.raises(ValueError, match="no text prompts"):
        segmenter.decode(embedding, torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1), texts=["liver"])


def test_a_constant_image_gives_finite_masks(segmenter: MedSamSegmenter) -> None:
    assert torch.isfinite(segmenter(torch.full((1, 3, 20, 30), 7.0))).all()


@torch.no_grad()
def test_outputs_are_those_recorded_from_the_official_code() -> None:
    record = parity.read("medsam")
    segmenter = MedSamSegmenter("random")
    shapes = {name: tuple(tensor.shape) for name, tensor in segmenter.state_dict().items()}
    load_checked(segmenter, parity.seeded_state(shapes, record["weight_seed"]), origin="seeded")
    image = parity.seeded_input((1, 3, *record["size"]), record["input_seed"]).round()
    embedding = segmenter.embed(image)
    boxes = torch.tensor(record["boxes"], dtype=torch.float32).view(1, -1, 2, 2)
    low_res, _ = segmenter.decode_low_res(embedding, boxes, torch.tensor([2, 3]).expand(boxes.shape[:3]))
    probability = segmenter.upscale(low_res, embedding).sigmoid()
    found = {"embedding": embedding.features, "low_res": low_res[0][:, None], "probability": probability[0][:, None]}
    parity.compare(record, found, tolerance=1e-4)
