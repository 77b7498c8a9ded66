"""MobileSAM and TinySAM: published names, the official code's outputs, and what differs from SAM."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.catalog import find_row
from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.segmenters.mobile_sam import (
    MobileSamSegmenter,
    TinySamSegmenter,
    rename_mobile_sam,
)
from tests.networks import parity
from tests.networks.test_keys import read_keys

CLASSES = {"mobile_sam": MobileSamSegmenter, "tinysam": TinySamSegmenter}
SHAPE = (341, 512)
# Kind -> x, y; labels; the kind whose low-resolution mask is given beside them.
PROMPTS: dict[str, tuple[list[list[float]], list[int], str | None]] = {
    "point": ([[250, 170]], [1], None),
    "points": ([[250, 170], [300, 200], [40, 310]], [1, 1, 0], None),
    "box": ([[100, 60], [380, 240]], [2, 3], None),
    "box_points": ([[100, 60], [380, 240], [250, 170], [110, 70]], [2, 3, 1, 0], None),
    "mask": ([], [], "box"),
    "box_mask": ([[100, 60], [380, 240]], [2, 3], "box"),
}


def mobile_weights(name: str, seed: int) -> dict[str, Tensor]:
    """Seeded weights under the published names; variances are around 1, since a negative one has no root."""
    shapes = {key: tuple(value.shape) for key, value in read_keys(name).items()}
    state = parity.seeded_state(shapes, seed)
    for key in (key for key in state if key.endswith("running_var")):
        state[key] = parity.seeded_tensor(f"{key}.weight", shapes[key], seed)
    return state


def ours(name: str, seed: int) -> dict[str, Tensor]:
    """The outputs that the recordings hold, of our classes."""
    segmenter = CLASSES[name]("random")
    load_checked(segmenter, rename_mobile_sam(mobile_weights(name, seed)), origin="seeded")
    embedding = segmenter.embed(parity.seeded_input((3, *SHAPE), seed).round()[None])
    outputs, ious = {"embedding": embedding.features}, []
    for kind, (coords, labels, mask_of) in PROMPTS.items():
        prompt = torch.tensor(coords).view(1, 1, -1, 2), torch.tensor(labels).view(1, 1, -1)
        masks = None if mask_of is None else outputs[f"{mask_of}_low_res"][None, None]
        low_res, iou = segmenter.decode_low_res(embedding, *prompt, masks)
        logits = segmenter.upscale(low_res, embedding)
        outputs |= {f"{kind}_low_res": low_res[0, 0], f"{kind}_logits": logits[0, 0]}
        ious.append(iou[0])
    return {**outputs, "iou": torch.cat(ious)}


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", CLASSES)
def test_every_tensor_of_the_published_file_is_taken(name: str) -> None:
    keys = read_keys(name)
    with torch.device("meta"):
        segmenter = CLASSES[name]("random")
    load_checked(segmenter, rename_mobile_sam(keys), origin=name)
    assert len(keys) == len(segmenter.state_dict()) == 439
    assert sum(parameter.numel() for parameter in segmenter.parameters()) == find_row(name).parameters["vit_t"]


@pytest.mark.parametrize("name", CLASSES)
def test_outputs_are_those_of_the_official_predictor(name: str) -> None:
    record = parity.read(name)
    parity.compare(record, ours(name, record["weight_seed"]), tolerance=1e-4)


def test_a_file_with_published_names_is_read_and_one_of_another_size_refused(tmp_path: Path) -> None:
    keys = read_keys("mobile_sam")
    torch.save(
        {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in keys.items()}, tmp_path / "whole.pt"
    )
    segmenter = MobileSamSegmenter(tmp_path / "whole.pt")
    assert not any(tensor.any() for tensor in segmenter.state_dict().values())
    torch.save(segmenter.state_dict(), tmp_path / "own.pt")
    assert not TinySamSegmenter(tmp_path / "own.pt").image_encoder.neck[0].weight.any()
    torch.save(MobileSamSegmenter("tiny").state_dict(), tmp_path / "tiny.pt")
    with pytest.raises(WeightsError, match=r"another model than MobileSamSegmenter: \d+ of 439 tensors match"):
        MobileSamSegmenter(tmp_path / "tiny.pt")


def test_names_of_its_own_stay_as_they_are() -> None:
    with torch.device("meta"):
        own = MobileSamSegmenter("random").state_dict()
    assert list(rename_mobile_sam(own)) == list(own)


def segment(segmenter: MobileSamSegmenter, image: Tensor) -> Tensor:
    return segmenter(image, (torch.tensor([[[[5.0, 6.0], [30.0, 28.0]]]]), torch.tensor([[[2, 3]]])))


@pytest.fixture
def tiny() -> MobileSamSegmenter:
    segmenter = MobileSamSegmenter("tiny")
    for name, parameter in segmenter.named_parameters():
        if "attention_biases" in name:  # zero at the start
            torch.nn.init.normal_(parameter)
    return segmenter


class TestTiny:
    IMAGE = parity.seeded_input((1, 3, 50, 40), 0)

    def test_it_keeps_the_input_and_is_small(self, tiny: MobileSamSegmenter) -> None:
        assert (tiny.input_spec.size, tiny.input_spec.max_value) == (1024, 255)
        assert segment(tiny, self.IMAGE).shape == (1, 1, 50, 40)
        assert sum(parameter.numel() for parameter in tiny.parameters()) < 1e6

    def test_weights_loaded_after_a_first_image_take_effect(self, tiny: MobileSamSegmenter) -> None:
        """timm keeps gathered attention biases in eval mode; a stale copy would be silent."""
        other = MobileSamSegmenter("tiny", seed=1)
        before = segment(other, self.IMAGE)
        other.load_state_dict(tiny.state_dict())
        assert torch.equal(segment(other, self.IMAGE), segment(tiny, self.IMAGE))
        assert not torch.equal(segment(other, self.IMAGE), before)

    def test_it_trains_twice_and_can_be_copied_after_an_image(self, tiny: MobileSamSegmenter) -> None:
        with torch.enable_grad():
            for _ in range(2):
                segment(tiny, self.IMAGE).square().mean().backward()
        biases = [value for name, value in tiny.named_parameters() if "attention_biases" in name]
        assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in biases)
        assert torch.equal(segment(copy.deepcopy(tiny), self.IMAGE), segment(tiny, self.IMAGE))

    def test_a_mask_of_the_image_is_a_prompt(self, tiny: MobileSamSegmenter) -> None:
        embedding = tiny.embed(self.IMAGE)
        nothing = torch.zeros(1, 2, 0, 2), torch.zeros(1, 2, 0)
        masks = torch.zeros(1, 2, 50, 40)
        masks[0, 0, 10:30, 5:25] = 1
        masks[0, 1, 25:45, 15:35] = 1
        given = tiny.mask_input(masks, embedding)
        assert given.shape == (1, 2, 256, 256)
        assert torch.equal(tiny.upscale(given, embedding) > 0, masks > 0)
        logits, _ = tiny.decode(embedding, *nothing, given)
        assert (logits[0, 0] - logits[0, 1]).abs().max() > 1e-4

    def test_tinysam_gives_the_best_of_three_masks_for_a_box_too(self) -> None:
        """Its decoder knows no other; MobileSAM's answer to a box is SAM's, the single mask."""
        box = torch.tensor([[[[5.0, 6.0], [30.0, 28.0]]]]), torch.tensor([[[2, 3]]])
        mobile, tiny = MobileSamSegmenter("tiny"), TinySamSegmenter("tiny")
        best = MobileSamSegmenter("tiny", multimask=True)
        assert torch.equal(tiny(self.IMAGE, box), best(self.IMAGE, box))
        assert not torch.equal(tiny(self.IMAGE, box), mobile(self.IMAGE, box))


@pytest.mark.parametrize("name", CLASSES)
def test_lora_reaches_every_block_with_attention(name: str) -> None:
    with torch.device("meta"):
        segmenter = CLASSES[name]("random")
    found = {
        target: [module for module, _ in segmenter.named_modules() if module.endswith(f".{target}")]
        for target in find_row(name).lora_targets
    }
    assert {target: len(modules) for target, modules in found.items()} == {"qkv": 10}
    assert all(module.startswith("image_encoder.") for module in found["qkv"])


@pytest.mark.parametrize(("cls", "model"), [(MobileSamSegmenter, "MobileSAM"), (TinySamSegmenter, "TinySAM")])
def test_an_unknown_variant_is_refused(cls: type[MobileSamSegmenter], model: str) -> None:
    with pytest.raises(ValueError, match=f"'vit_t', the only one of {model}, but got 'vit_b'"):
        cls("random", variant="vit_b")
