"""SAM-Med3D against its key list, values recorded from the official code, and its padded windows written out."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from fairmedfm_monai.catalog import find_row
from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.segmenters.base import NO_PROMPT, ImageEmbedding
from fairmedfm_monai.networks.segmenters.sam_med3d import Sam3DCore, SamMed3dSegmenter, z_normalise
from fairmedfm_monai.networks.segmenters.sam_med3d_encoder import Attention3D
from tests.networks import parity
from tests.networks.test_keys import read_keys


@pytest.fixture(scope="module")
def segmenter() -> SamMed3dSegmenter:
    module = SamMed3dSegmenter(weights="tiny")
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in module.parameters():  # large enough that prompts and positions matter
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return module


@pytest.fixture(scope="module")
def embedding(segmenter: SamMed3dSegmenter) -> ImageEmbedding:
    with torch.no_grad():
        return segmenter.embed(parity.seeded_input((2, 1, 128, 128, 128), 1, low=-500.0))


def points(*rows: list[tuple[float, float, float]]) -> Tensor:
    return torch.tensor([rows])


def outputs(segmenter: Sam3DCore, record: dict[str, Any]) -> dict[str, Tensor]:
    """What was recorded from the official code, made again: a first pass, a pass of clicks with its mask, the mask."""
    image = parity.seeded_input(
        (1, 1, 128, 128, 128), record["input_seed"], low=record["input_low"], high=record["input_high"]
    )
    embedding = segmenter.embed(image)
    coords = torch.tensor(record["points"])
    first, first_iou = segmenter.decode_low_res(embedding, coords, torch.ones(1, 2, 1))
    clicks, click_labels = torch.tensor(record["clicks"]), torch.tensor(record["click_labels"])
    second, second_iou = segmenter.decode_low_res(embedding, clicks, click_labels, first)
    alone, alone_iou = segmenter.decode_low_res(embedding, coords, -torch.ones(1, 2, 1), first)
    return {
        "features": embedding.features,
        "first": first,
        "first_iou": first_iou,
        "first_upscaled": segmenter.upscale(first, embedding),
        "second": second,
        "second_iou": second_iou,
        "mask_alone": alone,
        "mask_alone_iou": alone_iou,
    }


def test_every_tensor_of_the_published_checkpoint_is_taken() -> None:
    keys = read_keys("sam_med3d")
    assert len(keys) == 324
    with torch.device("meta"):
        segmenter = SamMed3dSegmenter(weights="random")
    load_checked(segmenter, keys, origin="sam_med3d")
    assert list(segmenter.state_dict()) == list(keys)


@torch.no_grad()
def test_outputs_are_those_recorded_from_the_official_code() -> None:
    record = parity.read("sam_med3d")
    shapes = {name: tensor.shape for name, tensor in read_keys("sam_med3d").items()}
    segmenter = SamMed3dSegmenter(weights="random")
    load_checked(segmenter, parity.seeded_state(shapes, record["weight_seed"]), origin="seeded")
    parity.compare(record, outputs(segmenter, record), tolerance=1e-4)


def test_a_bare_student_encoder_is_refused(tmp_path: Path) -> None:
    keys = read_keys("fastsam3d_student_encoder")
    torch.save({name: torch.zeros(1).expand(tensor.shape) for name, tensor in keys.items()}, tmp_path / "student.pth")
    with pytest.raises(WeightsError, match="another model than SamMed3dSegmenter: 0 of 324 tensors match"):
        SamMed3dSegmenter(weights=tmp_path / "student.pth")


def test_another_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="`variant` must be one of turbo, but got 'vit_b'"):
        SamMed3dSegmenter("vit_b", "tiny")


def written_out(attention: Attention3D, tokens: Tensor) -> Tensor:
    """Attention of one item (G, G, G, C): zeros are appended up to the window, every token attends to every token."""
    window, heads = attention.window, attention.heads
    padded = torch.zeros(window, window, window, tokens.shape[-1])
    padded[: tokens.shape[0], : tokens.shape[1], : tokens.shape[2]] = tokens
    query, key, value = attention.qkv(padded).unflatten(-1, (3, heads, -1)).movedim(-3, 0)
    logits = torch.einsum("abcnx,defnx->nabcdef", query, key) / query.shape[-1] ** 0.5
    tables = attention.rel_pos_d, attention.rel_pos_h, attention.rel_pos_w
    for a, b, c, d, e, f in itertools.product(range(window), repeat=6):
        first, second, third = (
            tables[axis][offset + window - 1] for axis, offset in ((0, a - f), (1, b - f), (2, e - f))
        )
        logits[:, a, b, c, d, e, f] += query[a, b, c] @ first + query[a, b, d] @ second + query[a, b, e] @ third
    weights = logits.flatten(4).softmax(-1).view_as(logits)
    mixed = torch.einsum("nabcdef,defnx->abcnx", weights, value).flatten(3)
    return attention.proj(mixed)[: tokens.shape[0], : tokens.shape[1], : tokens.shape[2]]


@torch.no_grad()
@pytest.mark.parametrize("window", [2, 4])
def test_padding_as_one_token_is_attention_over_the_padded_window(window: int) -> None:
    torch.manual_seed(window)
    attention = Attention3D(8, 2, grid=2, window=window)
    for parameter in attention.parameters():
        parameter.normal_()
    tokens = torch.randn(2, 2, 2, 2, 8)
    expected = torch.stack([written_out(attention, item) for item in tokens])
    assert (attention(tokens) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_window_smaller_than_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="`window` must hold the whole grid of 4 tokens"):
        Attention3D(8, 2, grid=4, window=3)


def test_normalisation_is_by_the_voxels_above_zero() -> None:
    window = np.random.default_rng(0).normal(20, 300, (6, 7, 8)).astype(np.float32)
    inside = window[window > 0].astype(np.float64)
    expected = (window - inside.mean()) / inside.std(ddof=1)
    found = z_normalise(torch.from_numpy(window)[None, None])
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, -1000.0, 40.0])
def test_windows_without_contrast_or_positive_voxels_are_finite(value: float) -> None:
    assert torch.equal(z_normalise(torch.full((1, 1, 4, 4, 4), value)), torch.zeros(1, 1, 4, 4, 4))
    lone = torch.full((1, 1, 4, 4, 4), -1000.0)
    lone[0, 0, 1, 2, 3] = 5.0
    assert torch.isfinite(z_normalise(lone)).all()


@torch.no_grad()
def test_windows_of_a_batch_do_not_mix(segmenter: SamMed3dSegmenter, embedding: ImageEmbedding) -> None:
    images = parity.seeded_input((2, 1, 128, 128, 128), 1, low=-500.0)
    alone = segmenter.embed(images[1:])
    torch.testing.assert_close(alone.features, embedding.features[1:], atol=1e-4, rtol=1e-4)
    coords = points([(10, 20, 30)], [(100, 64, 5)]).expand(2, -1, -1, -1)
    both, _ = segmenter.decode_low_res(embedding, coords, torch.ones(2, 2, 1))
    one, _ = segmenter.decode_low_res(alone, coords[:1], torch.ones(1, 2, 1))
    torch.testing.assert_close(one[0], both[1], atol=1e-3, rtol=1e-3)
    assert (both[0] - both[1]).abs().max() > 0.1


@torch.no_grad()
def test_prompts_of_different_length_are_decoded_as_if_alone(
    segmenter: SamMed3dSegmenter, embedding: ImageEmbedding
) -> None:
    first = ImageEmbedding(embedding.features[:1], embedding.original_size, embedding.input_size)
    coords = points([(10, 20, 30), (0, 0, 0), (90, 9, 9)], [(1, 2, 3), (0, 0, 0), (0, 0, 0)], [(0, 0, 0)] * 3)
    labels = torch.tensor([[[1, -1, 0], [1, -1, -1], [-1, -1, -1]]])
    low_res, iou = segmenter.decode_low_res(first, coords, labels)
    two = segmenter.decode_low_res(first, points([(10, 20, 30), (90, 9, 9)]), torch.tensor([[[1, 0]]]))
    one = segmenter.decode_low_res(first, points([(1, 2, 3)]), torch.tensor([[[1]]]))
    torch.testing.assert_close(low_res[:, :1], two[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(low_res[:, 1:2], one[0], atol=1e-4, rtol=1e-4)
    assert iou[0, 0] == pytest.approx(two[1].item(), abs=1e-4)
    assert (low_res[0, 2] == NO_PROMPT).all()
    assert iou[0, 2] == 0
    assert (segmenter.upscale(low_res, first)[0, 2] == NO_PROMPT).all()


@torch.no_grad()
def test_the_first_pass_is_a_mask_of_zeros(segmenter: SamMed3dSegmenter, embedding: ImageEmbedding) -> None:
    coords, labels = points([(10, 20, 30)]).expand(2, -1, -1, -1), torch.ones(2, 1, 1)
    first, _ = segmenter.decode_low_res(embedding, coords, labels)
    zeros, _ = segmenter.decode_low_res(embedding, coords, labels, torch.zeros_like(first))
    assert torch.equal(first, zeros)
    again, _ = segmenter.decode_low_res(embedding, coords, labels, first)
    assert not torch.allclose(again, first, atol=1e-3)


@torch.no_grad()
def test_upscaling_is_trilinear_about_voxel_centres(segmenter: SamMed3dSegmenter, embedding: ImageEmbedding) -> None:
    low_res = parity.seeded_input((1, 1, 16, 16, 16), 2)
    found = segmenter.upscale(low_res, embedding)
    assert found.shape == (1, 1, 128, 128, 128)
    centres = np.array([[5, 64, 127], [0, 33, 90], [70, 71, 72]]).T
    expected = map_coordinates(low_res[0, 0].numpy(), (centres + 0.5) / 8 - 0.5, order=1, mode="nearest")
    np.testing.assert_allclose(found[0, 0][tuple(centres)], expected, rtol=1e-4)


def test_a_mask_prompt_is_where_its_mask_is(segmenter: SamMed3dSegmenter, embedding: ImageEmbedding) -> None:
    masks = torch.zeros(1, 1, 128, 128, 128)
    masks[..., 16:40, 24:48, 8:12] = 1  # ends halfway through a low-resolution voxel along the last axis
    logits = segmenter.mask_input(masks, embedding)
    expected = torch.full((1, 1, 16, 16, 16), -10.0)
    expected[..., 2:5, 3:6, 1:2] = 0.0
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize(
    ("coords", "labels", "message"),
    [
        (torch.zeros(2, 1, 2, 3), torch.tensor([2, 3]).expand(2, 1, 2), "takes no boxes .* give points instead"),
        (torch.zeros(2, 1, 1, 3), torch.full((2, 1, 1), 5), r"`labels` may hold 1, 0 and -1 .* not \{5\}"),
        (torch.zeros(2, 1, 1, 2), torch.ones(2, 1, 1), r"`coords` must be \(2, P, N, 3\)"),
        (torch.zeros(1, 1, 1, 3), torch.ones(1, 1, 1), "2 embedded window"),
    ],
)
def test_prompts_that_cannot_be_decoded_are_refused(
    segmenter: SamMed3dSegmenter, embedding: ImageEmbedding, coords: Tensor, labels: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        segmenter.decode(embedding, coords, labels)


def test_texts_and_other_windows_are_refused(segmenter: SamMed3dSegmenter, embedding: ImageEmbedding) -> None:
    with pytest.raises(ValueError, match="no text prompts"):
        segmenter.decode(embedding, torch.zeros(2, 1, 1, 3), torch.ones(2, 1, 1), texts=["liver"])
    for shape in ((1, 1, 96, 128, 128), (1, 3, 128, 128, 128), (1, 3, 128, 128)):
        with pytest.raises(ValueError, match=r"`image` must be windows \(B, 1, 128, 128, 128\)"):
            segmenter.embed(torch.zeros(shape))


@torch.no_grad()
def test_without_prompts_the_middle_voxel_is_the_point(segmenter: SamMed3dSegmenter) -> None:
    image = parity.seeded_input((1, 1, 128, 128, 128), 3)
    expected = segmenter(image, (points([(64, 64, 64)]), torch.ones(1, 1, 1)))
    assert torch.equal(segmenter(image), expected)
    assert expected.shape == (1, 1, 128, 128, 128)


def test_gradients_reach_encoder_and_decoder(segmenter: SamMed3dSegmenter) -> None:
    coords, labels = points([(9, 70, 30), (64, 64, 64)]), torch.tensor([[[1, 0]]])
    logits, iou = segmenter.decode(segmenter.embed(parity.seeded_input((1, 1, 128, 128, 128), 3)), coords, labels)
    named = dict(segmenter.named_parameters())
    gradients = torch.autograd.grad(logits.mean() + iou.sum(), list(named.values()), allow_unused=True)
    idle = [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]
    assert idle == ["prompt_encoder.no_mask_embed.weight"]
    encoder = [gradient for name, gradient in zip(named, gradients, strict=True) if "attn." in name]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in encoder)


def test_the_catalog_names_what_is_there(segmenter: SamMed3dSegmenter) -> None:
    row = find_row("sam_med3d")
    spec = segmenter.volume_spec
    assert row.input_spec["window"] == list(spec.window)
    assert (row.input_spec["axcodes"], row.input_spec["spacing"], row.input_spec["zoom"]) == ("RAS", 1.5, False)
    assert (spec.axcodes, spec.spacing, spec.zoom) == ("RAS", 1.5, False)
    keys = read_keys("sam_med3d")
    adapted = [name for name in keys if name.endswith(tuple(f".{target}.weight" for target in row.lora_targets))]
    assert adapted == [f"image_encoder.blocks.{index}.attn.qkv.weight" for index in range(12)]
    buffer = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    counted = sum(tensor.numel() for name, tensor in keys.items() if name != buffer)
    assert row.parameters == {"turbo": counted}
