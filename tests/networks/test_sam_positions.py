"""SAM at another input size: interpolated tables of positions, everything else as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.segmenters.sam import SamSegmenter
from fairmedfm_monai.networks.segmenters.sam_builder import TINY, build_sam

TOKENS = 1024 // int(TINY["patch_size"])  # along an edge


def filled(image_size: int | None = None) -> SamSegmenter:
    """A tiny SAM whose tables hold more than the zeros that segment-anything starts them with."""
    segmenter = SamSegmenter(weights="tiny")
    numbers = torch.Generator().manual_seed(3)
    for name, table in segmenter.named_parameters():
        if "pos" in name:
            nn.init.normal_(table, generator=numbers)
    if image_size is not None:
        segmenter.resize(image_size)
    return segmenter


def tables(segmenter: SamSegmenter) -> dict[str, Tensor]:
    return {name: table.detach() for name, table in segmenter.named_parameters() if "pos" in name}


@pytest.mark.parametrize("image_size", [512, 256, 1536])
def test_tables_are_those_of_torch_s_bilinear_interpolation(image_size: int) -> None:
    before, after, tokens = tables(filled()), tables(filled(image_size)), TOKENS * image_size // 1024
    absolute = before.pop("image_encoder.pos_embed")
    expected = F.interpolate(absolute.movedim(3, 1), (tokens, tokens), mode="bilinear").movedim(1, 3)
    assert torch.equal(after.pop("image_encoder.pos_embed"), expected)
    assert {name.split(".")[2] for name in before} == {"0", "1"}  # block 0 attends in windows, block 1 everywhere
    for name, table in before.items():
        if ".0." in name:
            assert torch.equal(after[name], table)
        else:  # as a picture whose columns stay
            picture = F.interpolate(table[None, None], (2 * tokens - 1, table.shape[1]), mode="bilinear")
            torch.testing.assert_close(after[name], picture[0, 0])


def test_at_its_own_size_nothing_changes() -> None:
    plain, same = SamSegmenter(weights="tiny"), SamSegmenter(weights="tiny", image_size=1024)
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in plain.state_dict().items())
    image = torch.rand(1, 3, 70, 50) * 255
    assert torch.equal(plain(image), same(image))
    assert same.input_spec == plain.input_spec


def test_it_is_the_network_that_segment_anything_builds_at_that_size() -> None:
    segmenter = filled(512)
    sam = build_sam(**TINY, image_size=512)  # type: ignore[arg-type]
    sam.load_state_dict(segmenter.state_dict())
    assert segmenter.prompt_encoder.mask_input_size == sam.prompt_encoder.mask_input_size
    image, box = (
        torch.rand(1, 3, 48, 64) * 255,
        (torch.tensor([[[[5.0, 6.0], [40.0, 30.0]]]]), torch.tensor([[[2, 3]]])),
    )
    expected = SamSegmenter.from_sam(sam)
    assert torch.equal(segmenter(image, box), expected(image, box))
    assert segmenter.embed(image).features.shape[2:] == (TOKENS // 2, TOKENS // 2)


def test_the_loaded_weights_are_resized_and_a_resized_state_loads_again() -> None:
    one, other = SamSegmenter(weights="tiny", image_size=512), SamSegmenter(weights="tiny", image_size=512, seed=1)
    assert one.input_spec.size == 512
    other.load_state_dict(one.state_dict())
    image = torch.rand(1, 3, 40, 40) * 255
    assert torch.equal(one(image), other(image))
    with pytest.raises(RuntimeError, match="pos_embed"):
        SamSegmenter(weights="tiny").load_state_dict(one.state_dict())


@pytest.mark.parametrize("image_size", [500, 0, -64])
def test_sizes_that_tokens_do_not_fill_are_refused(image_size: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of the 64 pixels of a token, but got {image_size}"):
        SamSegmenter(weights="tiny", image_size=image_size)


def test_normalisation_can_be_that_of_another_training() -> None:
    plain = SamSegmenter(weights="tiny", image_size=256)
    published = SamSegmenter(weights="tiny", image_size=256, pixel_mean=[0.0] * 3, pixel_std=[255.0] * 3)
    image = torch.randint(0, 256, (1, 3, 256, 256)).float()
    assert torch.equal(published.preprocess(image), image / 255)
    assert published.input_spec.std == (255.0,) * 3
    assert published.state_dict().keys() == plain.state_dict().keys()
    assert not torch.equal(plain.preprocess(image), image / 255)
