"""Training of promptable segmenters: what trains, what is saved, and that the loss falls."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.losses import DiceCELoss
from safetensors import safe_open
from torch import Tensor, nn

from fairmedfm_monai.networks.segmenters.base import PromptableSegmenter
from fairmedfm_monai.networks.segmenters.demo_sam import DemoSAM
from fairmedfm_monai.networks.segmenters.medsam2 import MedSam2Segmenter
from fairmedfm_monai.networks.segmenters.mobile_sam import MobileSamSegmenter
from fairmedfm_monai.networks.segmenters.sam import SamSegmenter
from fairmedfm_monai.networks.segmenters.sam2 import Sam2Segmenter
from fairmedfm_monai.networks.segmenters.sam_med2d import SamMed2dSegmenter
from fairmedfm_monai.networks.segmenters.sam_med3d import SamMed3dSegmenter
from fairmedfm_monai.usages import (
    MergedState,
    PromptedDecoder,
    PromptedNetwork,
    PromptFreeNetwork,
    PromptFreeSegmenter,
    add_segmenter_lora,
)
from fairmedfm_monai.usages.segmenter_parts import part, train_only

KINDS = ["box", "center", "points"]
LORA = {"rank": 4, "alpha": 4.0, "dropout": 0.0, "target_modules": ["attn.qkv"]}
GRID = 64
LABELLED_BOX = (torch.tensor([[[2, 3]]]), torch.tensor([[64, 64]]))
FAMILIES = [DemoSAM, SamSegmenter, MobileSamSegmenter, SamMed2dSegmenter, Sam2Segmenter, MedSam2Segmenter]


def demo(seed: int = 0) -> DemoSAM:
    return DemoSAM("tiny", seed=seed)


def prompted_lora(segmenter: PromptableSegmenter, kinds: list[str]) -> PromptedNetwork:
    adapted = add_segmenter_lora(segmenter, **LORA)
    return PromptedNetwork(adapted.get_base_model(), kinds=kinds, grid=GRID)


def prompt_free_lora(segmenter: PromptableSegmenter, labels: int = 2) -> tuple[PromptFreeNetwork, Any]:
    trained = ["prompt_encoder", "mask_decoder"]
    adapted = add_segmenter_lora(PromptFreeSegmenter(segmenter, labels), **LORA, trained=trained)
    return PromptFreeNetwork(adapted.get_base_model(), grid=GRID), adapted


@pytest.fixture(scope="module")
def batch() -> dict[str, Tensor]:
    """Two pictures of different sizes, padded into one batch, each with a bright square and its box."""
    image, target = torch.full((2, 1, 96, 96), 40.0), torch.zeros(2, 1, GRID, GRID)
    size = torch.tensor([[96, 96], [96, 72]])
    image[0, :, 20:60, 30:80] = 200
    image[1, :, 10:50, 10:40] = 200
    image[1, :, :, 72:] = 0
    target[0, :, 14:40, 20:53] = 1
    target[1, :, 7:33, 9:35] = 1
    coords = torch.tensor([[[[30.0, 20.0], [79.0, 59.0]]], [[[10.0, 10.0], [39.0, 49.0]]]])
    return {"image": image, "size": size, "coords": coords, "labels": torch.tensor([[[2, 3]]] * 2), "target": target}


def arguments(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return batch["image"], batch["coords"], batch["labels"], batch["size"]


def trained(network: nn.Module, inputs: tuple[Tensor, ...], target: Tensor, loss: nn.Module, steps: int) -> list[float]:
    network.train()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(network(*inputs), target)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    network.eval()
    return values


class TestGradients:
    def test_they_agree_with_finite_differences_through_the_decoder(self, batch: dict[str, Tensor]) -> None:
        segmenter = demo()
        network = PromptedNetwork(segmenter, kinds=["box"], grid=GRID)
        inputs, loss = arguments(batch), DiceCELoss(sigmoid=True)
        weights = [segmenter.mask_decoder.mask_tokens.weight, segmenter.image_encoder.patch_embed.proj.bias]
        gradients = torch.autograd.grad(loss(network(*inputs), batch["target"]), weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            direction = gradient / gradient.norm()
            values = []
            for step in (1e-2, -1e-2):
                with torch.no_grad():
                    weight.add_(direction, alpha=step)
                    values.append(float(loss(network(*inputs), batch["target"])))
                    weight.sub_(direction, alpha=step)
            assert (values[0] - values[1]) / 2e-2 == pytest.approx(float(gradient.norm()), rel=0.02)

    @pytest.mark.parametrize("make", [demo, lambda: SamSegmenter(weights="tiny")], ids=["demo_sam", "sam"])
    @pytest.mark.parametrize("usage", ["decoder", "lora_prompted", "full", "lora"])
    def test_every_parameter_that_trains_gets_one(self, usage: str, make: Callable[[], PromptableSegmenter]) -> None:
        segmenter = make()
        image, size = torch.rand(1, 3, 48, 64) * 255, torch.tensor([[48, 64]])
        prompts = torch.tensor([[[[3.0, 4.0], [40.0, 30.0]], [[20.0, 20.0], [0.0, 0.0]], [[9.0, 9.0], [5.0, 5.0]]]])
        labels = torch.tensor([[[2, 3], [1, -1], [1, 0]]])
        inputs: tuple[Tensor, ...] = (image, prompts, labels, size)
        if usage == "decoder":
            network: nn.Module = PromptedDecoder(segmenter, kinds=KINDS, grid=GRID)
            vector, input_size = network.encode(image)
            inputs = (vector, prompts, labels, size, torch.tensor([input_size]))
        elif usage == "lora":
            network, inputs = prompt_free_lora(segmenter)[0], (image, size)
        elif usage == "lora_prompted":
            network = prompted_lora(segmenter, KINDS)
        else:
            network = PromptedNetwork(segmenter, kinds=[*KINDS, "center-neg1"], grid=GRID)
        network(*inputs).square().mean().backward()
        found = {name: parameter.grad is not None for name, parameter in network.named_parameters()}
        wanted = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
        assert found == wanted
        assert any("lora_A" in name for name, trains in wanted.items() if trains) == ("lora" in usage)

    def test_what_the_loss_cannot_reach_is_frozen(self) -> None:
        segmenter = demo()
        PromptedNetwork(segmenter, kinds=["box"], grid=GRID)
        frozen = {name for name, parameter in segmenter.named_parameters() if not parameter.requires_grad}
        assert {name.split(".")[1] for name in frozen} == {
            "point_embeddings",  # of points; those of the corners of boxes train
            "not_a_point_embed",
            "mask_downscaling",
            "iou_prediction_head",
        }
        assert segmenter.prompt_encoder.point_embeddings[2].weight.requires_grad

    def test_a_network_without_the_parts_is_refused_by_name(self) -> None:
        with pytest.raises(ValueError, match=r"needs a child 'mask_decoder'.*its children are image_encoder"):
            train_only(nn.ModuleDict({"image_encoder": nn.Linear(1, 1)}), ["mask_decoder"])

    def test_parts_may_lie_elsewhere(self) -> None:
        network = nn.ModuleDict({"sam2": nn.ModuleDict({"vision_encoder": nn.Linear(2, 3)})})
        network.parts = {"image_encoder": "sam2.vision_encoder"}  # type: ignore[assignment]
        assert part(network, "image_encoder").out_features == 3


class TestPromptedTraining:
    @pytest.mark.parametrize("usage", ["decoder", "lora_prompted", "full"])
    def test_the_loss_falls_and_frozen_parts_stay(self, usage: str, batch: dict[str, Tensor]) -> None:
        segmenter = demo()
        inputs = arguments(batch)
        if usage == "decoder":
            network: nn.Module = PromptedDecoder(segmenter, kinds=["box"], grid=GRID)
            pictures = [
                batch["image"][row : row + 1, :, : int(h), : int(w)] for row, (h, w) in enumerate(batch["size"])
            ]
            vectors, sizes = zip(*(network.encode(picture) for picture in pictures), strict=True)
            inputs = (torch.cat(vectors), *inputs[1:], torch.tensor(sizes))
        else:
            network = prompted_lora(segmenter, ["box"]) if usage == "lora_prompted" else None
            network = network or PromptedNetwork(segmenter, kinds=["box"], grid=GRID)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        trains = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        losses = trained(network, inputs, batch["target"], DiceCELoss(sigmoid=True), steps=20)
        assert losses[-1] < 0.9 * losses[0]
        changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
        assert changed <= trains
        assert len(changed) > 0.9 * len(trains)

    def test_decoding_a_stored_embedding_is_decoding_the_image(self, batch: dict[str, Tensor]) -> None:
        network = PromptedDecoder(demo(), kinds=["box"], grid=GRID)
        whole = PromptedNetwork(demo(), kinds=["box"], grid=GRID)
        pictures = [batch["image"][row : row + 1, :, : int(h), : int(w)] for row, (h, w) in enumerate(batch["size"])]
        vectors, sizes = zip(*(network.encode(picture) for picture in pictures), strict=True)
        stored = network(torch.cat(vectors), *arguments(batch)[1:], torch.tensor(sizes))
        torch.testing.assert_close(stored, whole(*arguments(batch)))

    def test_padding_behind_an_image_changes_nothing(self, batch: dict[str, Tensor]) -> None:
        network = PromptedNetwork(demo(), kinds=["box"], grid=GRID)
        alone = network(batch["image"][1:, :, :, :72], batch["coords"][1:], batch["labels"][1:], batch["size"][1:])
        torch.testing.assert_close(network(*arguments(batch))[1:], alone)

    def test_training_masks_are_those_of_evaluation_on_another_grid(self, batch: dict[str, Tensor]) -> None:
        segmenter = demo()
        picture = batch["image"][:1].expand(-1, 3, -1, -1)
        network = PromptedNetwork(segmenter, kinds=["box"], grid=96)
        expected = segmenter.decode(segmenter.embed(picture), batch["coords"][:1], batch["labels"][:1])[0]
        inputs = (batch["image"][:1], batch["coords"][:1], batch["labels"][:1], batch["size"][:1])
        torch.testing.assert_close(network(*inputs), expected)

    def test_only_what_trains_leaves_evaluation_mode(self) -> None:
        network = PromptedDecoder(demo(), kinds=["box"], grid=GRID).train()
        modes = {name: module.training for name, module in network.segmenter.named_children()}
        assert modes == {"image_encoder": False, "prompt_encoder": False, "mask_decoder": True}
        assert not any(module.training for module in network.eval().modules())

    def test_making_a_network_for_the_trainer_moves_no_batch_statistics(self) -> None:
        segmenter = MobileSamSegmenter(weights="tiny")
        before = {name: tensor.clone() for name, tensor in segmenter.state_dict().items()}
        network = PromptedNetwork(segmenter, kinds=["box"], grid=GRID)
        assert not any(module.training for module in network.modules())
        network(torch.rand(1, 3, 64, 64), torch.tensor([[[[4.0, 4.0], [30.0, 30.0]]]]), *LABELLED_BOX)
        assert all(torch.equal(tensor, before[name]) for name, tensor in segmenter.state_dict().items())

    def test_a_model_of_volumes_trains(self) -> None:
        network = PromptedNetwork(SamMed3dSegmenter(weights="tiny"), kinds=["center", "point-neg1"], grid=32)
        window = torch.zeros(1, 1, 128, 128, 128)
        window[..., 40:90, 40:90, 40:90] = 300.0
        target = torch.zeros(1, 1, 32, 32, 32)
        target[..., 10:23, 10:23, 10:23] = 1
        inputs = (window, torch.full((1, 1, 1, 3), 64.0), torch.ones(1, 1, 1).long(), torch.tensor([[128, 128, 128]]))
        losses = trained(network, inputs, target, DiceCELoss(sigmoid=True), steps=4)
        assert losses[-1] < losses[0]


class TestLora:
    def test_it_changes_nothing_before_the_first_step(self, batch: dict[str, Tensor]) -> None:
        network = prompted_lora(demo(), ["box"])
        plain = PromptedNetwork(demo(), kinds=["box"], grid=GRID)
        torch.testing.assert_close(network(*arguments(batch)), plain(*arguments(batch)))

    def test_queries_and_values_learn_and_keys_do_not(self, batch: dict[str, Tensor]) -> None:
        segmenter = demo()
        adapted = add_segmenter_lora(segmenter, **LORA)
        merged = MergedState(adapted)
        trained(
            PromptedNetwork(segmenter, kinds=["box"], grid=GRID),
            arguments(batch),
            batch["target"],
            DiceCELoss(sigmoid=True),
            steps=4,
        )
        name = "image_encoder.blocks.0.attn.qkv.weight"
        query, key, value = (merged.state_dict()[name] - demo().state_dict()[name]).abs().chunk(3)
        assert query.max() > 1e-5
        assert value.max() > 1e-5
        assert key.max() == 0

    @pytest.mark.parametrize("prompt_free", [False, True])
    def test_the_merged_state_gives_the_same_masks_without_peft(
        self, prompt_free: bool, batch: dict[str, Tensor], tmp_path: Path
    ) -> None:
        segmenter = demo()
        if prompt_free:
            network, adapted = prompt_free_lora(segmenter)
            loss, inputs, other = DiceCELoss(softmax=True, to_onehot_y=True), arguments(batch)[::3], demo(seed=1)
            plain: nn.Module = PromptFreeSegmenter(other, 2, seed=1)
            again: nn.Module = PromptFreeNetwork(plain, grid=GRID)
        else:
            adapted = add_segmenter_lora(segmenter, **LORA)
            network = PromptedNetwork(adapted.get_base_model(), kinds=["box"], grid=GRID)
            loss, inputs, plain = DiceCELoss(sigmoid=True), arguments(batch), demo(seed=1)
            again = PromptedNetwork(plain, kinds=["box"], grid=GRID)
        merged = MergedState(adapted, adapter=tmp_path / "adapter.safetensors")
        before = network(*inputs).detach()
        trained(network, inputs, batch["target"], loss, steps=4)
        torch.save(merged.state_dict(), tmp_path / "model.pt")
        plain.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
        found = network(*inputs)
        assert (found - before).abs().max() > 1e-2
        torch.testing.assert_close(again(*inputs), found, atol=1e-4, rtol=1e-4)
        with safe_open(tmp_path / "adapter.safetensors", "pt") as file:
            names = list(file.keys())
        assert sum("lora_" in name for name in names) == 4  # A and B of q and of v in one block
        assert any("mask_decoder" in name for name in names)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_merging_is_exact_in_every_family(self, family: Callable[..., PromptableSegmenter]) -> None:
        network = PromptFreeSegmenter(family(weights="tiny"), 5)  # six tokens: not the number of the published decoder
        before = network(torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(1)) * 255)
        adapted = add_segmenter_lora(network, **{**LORA, "target_modules": ["qkv"]})
        merged = MergedState(adapted)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:  # zero at the start: merging it would show nothing
                nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(2))
        image = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(1)) * 255
        plain = PromptFreeSegmenter(family(weights="tiny", seed=1), 5, seed=1)
        plain.load_state_dict(merged.state_dict())
        with torch.no_grad():
            expected = network(image)
            moved = (expected - before).abs().max()
            assert (plain(image) - expected).abs().max() < 1e-3 * moved

    def test_a_bundle_says_which_modules_it_wants(self) -> None:
        with pytest.raises(ValueError, match=r"nothing in the encoder is called attn\.value"):
            add_segmenter_lora(demo(), **{**LORA, "target_modules": ["attn.value"]})


class TestPromptFree:
    def test_the_loss_falls(self, batch: dict[str, Tensor]) -> None:
        network, _ = prompt_free_lora(demo(), labels=1)
        loss = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, batch=True, lambda_dice=0.8, lambda_ce=0.2)
        losses = trained(network, arguments(batch)[::3], batch["target"], loss, steps=20)
        assert losses[-1] < 0.9 * losses[0]

    def test_there_is_one_token_per_class_and_the_rest_is_the_fms(self) -> None:
        segmenter = SamSegmenter(weights="tiny")
        before = copy.deepcopy(segmenter.state_dict())
        network = PromptFreeSegmenter(segmenter, 5)
        assert network(torch.rand(2, 3, 40, 30) * 255).shape == (2, 6, 40, 30)
        assert network.segmenter.mask_decoder.mask_tokens.weight.shape[0] == 6
        state = network.state_dict()
        kept = [name for name in before if "mask_tokens" not in name and "hypernetworks" not in name]
        assert all(torch.equal(state[f"segmenter.{name}"], before[name]) for name in kept)

    def test_tokens_of_a_published_decoder_are_read_out_in_its_own_order(self) -> None:
        from fairmedfm_monai.usages.prompt_free import token_masks

        segmenter = SamSegmenter(weights="tiny")
        embedding = segmenter.embed(torch.rand(2, 3, 50, 50) * 255)
        sparse, dense = segmenter.prompt_encoder(points=None, boxes=None, masks=None)
        for multimask, tokens in ((False, slice(0, 1)), (True, slice(1, 4))):  # segment-anything's own forward
            expected, _ = segmenter.mask_decoder(
                image_embeddings=embedding.features[1:],
                image_pe=segmenter.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask,
            )
            torch.testing.assert_close(token_masks(segmenter, embedding)[1:, tokens], expected)

    def test_volumes(self) -> None:
        network = PromptFreeSegmenter(SamMed3dSegmenter(weights="tiny"), 2)
        assert network(torch.rand(1, 1, 128, 128, 128)).shape == (1, 3, 128, 128, 128)

    def test_a_decoder_without_mask_tokens_is_refused(self) -> None:
        segmenter = demo()
        segmenter.mask_decoder = nn.Linear(1, 1)  # type: ignore[assignment]
        with pytest.raises(ValueError, match="Linear cannot segment without prompts"):
            PromptFreeSegmenter(segmenter, 2)
