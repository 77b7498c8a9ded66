"""SAMed as FairSeg trains it: what trains of SAM ViT-B, its masks without prompts, its loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from fairmedfm_monai.bundle.configs import segmentation_recipes
from fairmedfm_monai.networks.checkpoint import WeightsError
from fairmedfm_monai.networks.segmenters.sam import SamSegmenter
from fairmedfm_monai.usages import MergedState, PromptFreeNetwork, PromptFreeSegmenter, add_segmenter_lora

LORA = {"rank": 4, "alpha": 4.0, "dropout": 0.0, "target_modules": ["attn.qkv"]}
TRAINED = ["prompt_encoder", "mask_decoder"]
LABELS = 2  # rim and cup
BLOCKS, WIDTH, RANK = 12, 768, 4


def samed(segmenter: SamSegmenter, *, grid: int = 16, seed: int = 0) -> tuple[PromptFreeNetwork, MergedState]:
    adapted = add_segmenter_lora(PromptFreeSegmenter(segmenter, LABELS, seed=seed), **LORA, trained=TRAINED)
    return PromptFreeNetwork(adapted.get_base_model(), grid=grid), MergedState(adapted)


def tiny(seed: int = 0, image_size: int = 256) -> SamSegmenter:
    return SamSegmenter(weights="tiny", image_size=image_size, seed=seed)


def test_what_trains_of_vit_b() -> None:
    """At 64 pixels: the parts that train do not depend on the size."""
    network, _ = samed(SamSegmenter("vit_b", "random", image_size=64))
    inside = "network.segmenter."
    found = {
        name.removeprefix(inside): parameter.numel()
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    }
    lora = {
        f"image_encoder.blocks.{block}.attn.qkv.{kind}.lora_{matrix}.default.weight": RANK * WIDTH
        for block in range(BLOCKS)
        for kind in ("q", "v")
        for matrix in ("A", "B")
    }
    decoder = {
        name: parameter.numel()
        for name, parameter in network.network.segmenter.named_parameters()
        # The head that predicts the IoU is part of no mask: the loss does not reach it.
        if name.startswith("mask_decoder.") and not name.startswith("mask_decoder.iou_prediction_head.")
    }
    # Of the prompt encoder the loss reaches the embedding of "no mask"; nothing else takes part without prompts.
    assert found == lora | decoder | {"prompt_encoder.no_mask_embed.weight": 256}
    assert sum(lora.values()) == 147_456
    hypernetworks = (LABELS + 1) * (2 * (256 * 256 + 256) + 256 * 32 + 32)
    tokens = (1 + LABELS + 1) * 256
    upscaling = (256 * 64 * 4 + 64) + 2 * 64 + (64 * 32 * 4 + 32)
    transformer = 3_291_264  # segment-anything's two-way transformer of depth 2
    assert sum(decoder.values()) == hypernetworks + tokens + upscaling + transformer
    assert sum(found.values()) == 147_456 + 3_785_664 + 256 == 3_933_376


def test_masks_are_those_of_segment_anything_s_own_modules() -> None:
    """Its preprocessing, encoder, decoder with the embeddings of no prompt, and postprocessing."""
    network = PromptFreeSegmenter(tiny(), LABELS)
    parts = network.segmenter
    sam = Sam(parts.image_encoder, parts.prompt_encoder, parts.mask_decoder, [123.675, 116.28, 103.53]).eval()
    image = torch.randint(0, 256, (2, 3, 256, 256)).float()
    with torch.no_grad():
        features = sam.image_encoder(sam.preprocess(image))
        sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
        rows = []
        for row in range(2):
            both = [
                sam.mask_decoder(
                    image_embeddings=features[row : row + 1],
                    image_pe=sam.prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=multimask,
                )[0]
                for multimask in (False, True)  # the first token, and all others
            ]
            rows.append(torch.cat(both, dim=1))
        low_res = torch.cat(rows)
        assert low_res.shape == (2, 1 + LABELS, 16, 16)  # 4 x 4 tokens, four times as many pixels
        torch.testing.assert_close(network(image), sam.postprocess_masks(low_res, (256, 256), (256, 256)))
        # The loss is taken where the decoder answers.
        training = PromptFreeNetwork(network, grid=16)
        torch.testing.assert_close(training(image, torch.tensor([[256, 256]] * 2)), low_res)


def test_a_picture_that_does_not_fill_the_input_is_cut_out_before_the_loss() -> None:
    network = PromptFreeSegmenter(tiny(), LABELS)
    image = torch.rand(1, 3, 256, 128) * 255
    found = PromptFreeNetwork(network, grid=16)(image, torch.tensor([[256, 128]]))
    embedding = network.segmenter.embed(image)
    assert found.shape == (1, 1 + LABELS, 16, 16)
    torch.testing.assert_close(found, network.on_grid(embedding, (16, 16)))
    assert embedding.input_size == (256, 128)


def test_the_loss_is_a_fifth_cross_entropy_and_four_fifths_dice() -> None:
    from monai.bundle import ConfigParser

    loss = ConfigParser(segmentation_recipes.loss("lora")).get_parsed_content("plain_loss")
    logits, target = torch.randn(3, 3, 8, 8), torch.randint(0, 3, (3, 1, 8, 8))
    p, log_p = logits.softmax(1), logits.log_softmax(1)
    entropy = -log_p.gather(1, target).mean()
    dice = Tensor(
        [
            1 - 2 * (p[:, k] * (target[:, 0] == k)).sum() / (p[:, k].square().sum() + (target[:, 0] == k).sum())
            for k in range(3)
        ]
    ).mean()
    assert float(loss(logits, target)) == pytest.approx(float(0.2 * entropy + 0.8 * dice), rel=1e-5)


class TestStart:
    """A second training goes on from what the first one saved."""

    @pytest.fixture
    def first(self, tmp_path: Path) -> tuple[PromptFreeNetwork, Path]:
        """A network whose adapters and decoder moved, and its model.pt with the adapter beside it."""
        network, state = samed(tiny())
        state = MergedState(state._model, adapter=tmp_path / "adapter.safetensors")
        with torch.no_grad():
            for number, parameter in enumerate(network.parameters()):
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
                    parameter.add_(0.05 * noise)
        torch.save(state.state_dict(), tmp_path / "model.pt")
        return network, tmp_path / "model.pt"

    def test_it_computes_the_same_bit_by_bit_and_trains_the_same(self, first: tuple[PromptFreeNetwork, Path]) -> None:
        network, file = first
        second, state = samed(tiny(), seed=7)
        inputs = torch.rand(1, 3, 256, 200) * 255, torch.tensor([[256, 200]])
        assert not torch.equal(second(*inputs), network(*inputs))
        state.start(file)
        assert torch.equal(second(*inputs), network(*inputs))
        trains = [{name for name, p in one.named_parameters() if p.requires_grad} for one in (network, second)]
        assert trains[0] == trains[1]
        assert any("lora_B" in name for name in trains[1])

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ("no adapter", "no adapter.safetensors beside it"),
            ("other size", "of another shape"),
            ("other labels", "of another shape"),
            ("other weights of the FM", "do not give the same model"),
            ("other rank", "adapter of another model"),
        ],
    )
    def test_what_does_not_belong_together_is_refused(
        self, change: str, expected: str, first: tuple[PromptFreeNetwork, Path]
    ) -> None:
        _, file = first
        if change == "no adapter":
            file.with_name("adapter.safetensors").unlink()
        segmenter = tiny(seed=int(change.endswith("FM")), image_size=512 if change == "other size" else 256)
        network = PromptFreeSegmenter(segmenter, 5 if change == "other labels" else LABELS)
        lora = LORA | {"rank": 8} if change == "other rank" else LORA
        adapted = add_segmenter_lora(network, **lora, trained=TRAINED)
        PromptFreeNetwork(adapted.get_base_model(), grid=16)
        with pytest.raises(WeightsError, match=expected):
            MergedState(adapted).start(file)
