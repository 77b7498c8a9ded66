"""FT-SAM and SAM-Med2D: published names, the official code's outputs, and what differs from SAM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fairmedfm_monai.catalog import find_row
from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked, read_checkpoint
from fairmedfm_monai.networks.segmenters.sam_med2d import (
    FtSamSegmenter,
    Sam256,
    SamMed2dSegmenter,
    read_training_file,
    rename_sam_med2d,
    squash_nearest,
)
from tests.networks import parity
from tests.networks.test_keys import read_keys

CLASSES = {"ft_sam": FtSamSegmenter, "sam_med2d": SamMed2dSegmenter}
IMAGES = {"small": (101, 171), "large": (198, 411)}
# Kind -> x, y in percent of the image; labels; the kind whose low-resolution mask is given beside them.
PROMPTS: dict[str, tuple[list[list[float]], list[int], str | None]] = {
    "point": ([[50, 50]], [1], None),
    "points": ([[50, 50], [60, 55], [10, 90]], [1, 1, 0], None),
    "box": ([[20, 15], [75, 70]], [2, 3], None),
    "box_points": ([[20, 15], [75, 70], [50, 50], [22, 18]], [2, 3, 1, 0], None),
    "mask": ([], [], "box"),
    "point_mask": ([[50, 50]], [1], "point"),
}


def seeded_shapes(name: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in read_keys(name).items()}


def ours(name: str, seed: int) -> dict[str, Tensor]:
    """The outputs that the recordings hold, of our classes."""
    segmenter = CLASSES[name]("random")
    load_checked(segmenter, rename_sam_med2d(parity.seeded_state(seeded_shapes(name), seed)), origin="seeded")
    outputs, ious = {}, []
    for size, shape in IMAGES.items():
        embedding = segmenter.embed(parity.seeded_input((3, *shape), seed).round()[None])
        outputs[f"{size}_embedding"] = embedding.features
        for kind, (percent, labels, mask_of) in PROMPTS.items():
            coords = torch.tensor(percent, dtype=torch.float64).view(-1, 2) * (torch.tensor(shape[::-1]) / 100)
            masks = None if mask_of is None else outputs[f"{size}_{mask_of}_low_res"][None, None]
            low_res, iou = segmenter.decode_low_res(embedding, coords[None, None], torch.tensor([[labels]]), masks)
            logits = segmenter.upscale(low_res, embedding)
            outputs |= {f"{size}_{kind}_low_res": low_res[0, 0], f"{size}_{kind}_logits": logits[0, 0]}
            ious.append(iou[0, 0])
    return {**outputs, "iou": torch.stack(ious)}


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", CLASSES)
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    record = parity.read(name)
    parity.compare(record, ours(name, record["weight_seed"]), tolerance=1e-4)


class TestPublishedFile:
    @pytest.mark.parametrize(("name", "count"), [("ft_sam", 314), ("sam_med2d", 386)])
    def test_every_tensor_is_taken(self, name: str, count: int) -> None:
        keys = read_keys(name)
        with torch.device("meta"):
            segmenter = CLASSES[name]("random")
        load_checked(segmenter, rename_sam_med2d(keys), origin=name)
        assert len(keys) == len(segmenter.state_dict()) == count
        assert sum(parameter.numel() for parameter in segmenter.parameters()) == find_row(name).parameters["vit_b"]

    def test_without_adapters_exactly_their_tensors_are_left_out(self) -> None:
        keys = read_keys("sam_med2d")
        with torch.device("meta"):
            segmenter = SamMed2dSegmenter("random", variant="no_adapter")
        kept = rename_sam_med2d(keys, adapters=False)
        load_checked(segmenter, kept, origin="sam_med2d")
        left_out = [key for key in keys if key not in kept]
        parts = ("channel.0", "channel.2", "norm", "norm", "spatial.0", "spatial.2")  # norm has weight and bias
        expected = [f"image_encoder.blocks.{block}.Adapter.{part}" for block in range(12) for part in parts]
        assert sorted(key.rsplit(".", 1)[0] for key in left_out) == sorted(expected)

    def test_the_files_of_one_another_are_refused(self) -> None:
        with torch.device("meta"):
            ft_sam, sam_med2d = FtSamSegmenter("random"), SamMed2dSegmenter("random")
        with pytest.raises(
            WeightsError, match="314 of 314 tensors match, 0 missing, 72 unexpected, 0 of another shape"
        ):
            load_checked(ft_sam, read_keys("sam_med2d"), origin="sam-med2d_b.pth")
        with pytest.raises(WeightsError, match="314 of 386 tensors match, 72 missing, 0 unexpected"):
            load_checked(sam_med2d, rename_sam_med2d(read_keys("ft_sam")), origin="ft-sam_b.pth")
        with pytest.raises(WeightsError, match=r"pos_embed is \(1, 64, 64, 768\), not \(1, 16, 16, 768\)"):
            load_checked(ft_sam, read_keys("sam_vit_b"), origin="sam_vit_b_01ec64.pth")

    def test_a_file_with_the_optimiser_of_its_training_is_read(self, tmp_path: Path) -> None:
        """The authors save the whole Adam object beside the weights, which a plain safe load refuses."""
        trained = SamMed2dSegmenter("tiny", seed=1)
        optimiser = torch.optim.Adam(trained.parameters())
        with torch.enable_grad():
            trained(torch.zeros(1, 3, 20, 20)).sum().backward()
        optimiser.step()
        published = {name.replace(".mlp.adapter.", ".Adapter."): value for name, value in trained.state_dict().items()}
        torch.save({"model": published, "optimizer": optimiser}, tmp_path / "file.pth")
        with pytest.raises(WeightsError, match="cannot be read as plain weights"):
            read_checkpoint(tmp_path / "file.pth")
        state = rename_sam_med2d(read_training_file(tmp_path / "file.pth"))
        assert set(state) == set(trained.state_dict())
        assert all(torch.equal(value, state[name]) for name, value in trained.state_dict().items())

    def test_other_objects_in_a_file_are_still_refused(self, tmp_path: Path) -> None:
        torch.save({"model": {"weight": torch.zeros(1)}, "optimizer": torch.nn.ReLU()}, tmp_path / "file.pth")
        with pytest.raises(WeightsError, match="needs code to be run is refused"):
            FtSamSegmenter(tmp_path / "file.pth")

    def test_a_checkpoint_of_another_size_is_refused_on_reading(self, tmp_path: Path) -> None:
        torch.save({"model": FtSamSegmenter("tiny").state_dict()}, tmp_path / "tiny.pth")
        with pytest.raises(WeightsError, match=r"another model than FtSamSegmenter: \d+ of 314 tensors match"):
            FtSamSegmenter(tmp_path / "tiny.pth")


@pytest.fixture(scope="module")
def tiny() -> SamMed2dSegmenter:
    return SamMed2dSegmenter("tiny")


class TestPreparation:
    def test_channels_are_reversed_and_normalised_in_the_order_of_the_constants(self, tiny: Sam256) -> None:
        image = torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        prepared = tiny.preprocess(image)[0, :, 0, 0]
        expected = [(30 - 123.675) / 58.395, (20 - 116.28) / 57.12, (10 - 103.53) / 57.375]
        assert prepared.tolist() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize(
        ("shape", "prepared"),
        [((100, 70), (100, 70)), ((255, 255), (255, 255)), ((256, 40), (256, 256)), ((300, 512), (256, 256))],
    )
    def test_only_images_smaller_on_both_sides_keep_their_pixels(
        self, tiny: Sam256, shape: tuple[int, int], prepared: tuple[int, int]
    ) -> None:
        embedding = tiny.embed(torch.zeros(1, 3, *shape))
        assert (embedding.original_size, embedding.input_size) == (shape, prepared)

    def test_a_small_image_lies_in_the_middle_of_zeros(self, tiny: Sam256, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        monkeypatch.setattr(tiny.image_encoder, "forward", lambda image: seen.append(image) or image)
        embedding = tiny.embed(torch.full((1, 3, 101, 70), 255.0))
        rows, columns = seen[0][0, 0].nonzero(as_tuple=True)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (77, 177, 93, 162)
        moved = tiny.scale_coords(torch.tensor([[[[0.0, 0.0], [69.0, 100.0]]]]), embedding)
        assert moved.flatten().tolist() == [93, 77, 162, 177]

    # Columns that OpenCV's INTER_NEAREST picks (4.14 and 5.0 agree); at 128 the exact quotient is whole, its own a
    # rounding below.
    @pytest.mark.parametrize(
        ("edge", "index", "picked"), [(186, 128, 92), (198, 128, 98), (210, 128, 104), (512, 3, 6), (300, 128, 150)]
    )
    def test_squashing_picks_the_pixels_that_opencv_picks(self, edge: int, index: int, picked: int) -> None:
        image = np.broadcast_to(np.arange(edge, dtype=np.int64)[None, :, None], (300, edge, 3))
        assert squash_nearest(image, 256)[0, index].tolist() == [picked] * 3
        assert squash_nearest(image, 256).shape == (256, 256, 3)


class TestMasks:
    @pytest.mark.parametrize("shape", [(90, 120), (300, 280)])
    def test_a_mask_of_the_image_becomes_a_prompt_and_back(self, tiny: Sam256, shape: tuple[int, int]) -> None:
        embedding = tiny.embed(torch.zeros(1, 3, *shape))
        masks = torch.zeros(1, 1, *shape)
        masks[..., 16:64, 32:80] = 1
        given = tiny.mask_input(masks, embedding)
        assert given.shape == (1, 1, *tiny.prompt_encoder.mask_input_size)
        back = tiny.upscale(given, embedding) > 0
        overlap = 2 * (back & (masks > 0)).sum() / (back.sum() + masks.sum())
        assert overlap > 0.9  # cells of 8 pixels

    def test_mask_prompts_reach_the_network_as_probabilities(
        self, tiny: Sam256, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        embed_masks = tiny.prompt_encoder._embed_masks
        monkeypatch.setattr(tiny.prompt_encoder, "_embed_masks", lambda masks: seen.append(masks) or embed_masks(masks))
        logits = torch.full((1, 1, *tiny.prompt_encoder.mask_input_size), 2.0)
        embedding = tiny.embed(torch.zeros(1, 3, 20, 20))
        tiny.decode(embedding, torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1), logits)
        assert seen[0].unique().tolist() == pytest.approx([0.880797])


def test_the_adapters_matter_and_tiny_is_small(tiny: SamMed2dSegmenter) -> None:
    assert (tiny.input_spec.size, tiny.input_spec.max_value) == (256, 255)
    assert sum(parameter.numel() for parameter in tiny.parameters()) < 1e6
    plain = SamMed2dSegmenter("tiny", variant="no_adapter")
    plain.load_state_dict({name: value for name, value in tiny.state_dict().items() if ".adapter." not in name})
    image = parity.seeded_input((1, 3, 60, 50), 0)
    assert tiny(image).shape == plain(image).shape == (1, 1, 60, 50)
    assert (tiny(image) - plain(image)).abs().max() > 1e-4


@pytest.mark.parametrize("name", CLASSES)
def test_lora_reaches_every_block_of_the_encoder(name: str) -> None:
    with torch.device("meta"):
        segmenter = CLASSES[name]("random")
    modules = [
        module
        for module, _ in segmenter.named_modules()
        for target in find_row(name).lora_targets
        if module.endswith(f".{target}")
    ]
    assert modules == [f"image_encoder.blocks.{block}.attn.qkv" for block in range(12)]


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(ValueError, match="one of FT-SAM's, vit_b, but got 'no_adapter'"):
        FtSamSegmenter("random", variant="no_adapter")
    with pytest.raises(ValueError, match="one of SAM-Med2D's, vit_b, no_adapter, but got 'vit_h'"):
        SamMed2dSegmenter("random", variant="vit_h")
