"""Full fine-tuning: what trains, with which learning rate, in how much memory."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.encoders.clip import CLIPEncoder
from fairmedfm_monai.networks.encoders.demo_clip import DemoCLIP
from fairmedfm_monai.usages.full_finetune import FullFinetune, train_whole
from fairmedfm_monai.usages.layer_decay import blocks, layer_decay_groups, layer_numbers
from fairmedfm_monai.usages.lora import check_gradients

SHAPE = (1, 1, 128, 128)
UNUSED = {"encoder.image_head.weight", "encoder.log_scale"}  # the way to the texts


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(4, 1, 128, 128, generator=torch.Generator().manual_seed(0))


def network(*, checkpointing: bool = False) -> FullFinetune:
    return train_whole(FullFinetune(DemoCLIP("tiny"), 2), image_shape=SHAPE, gradient_checkpointing=checkpointing)


def test_everything_that_the_logits_depend_on_trains_and_moves(image: Tensor) -> None:
    model = network()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == UNUSED
    assert check_gradients(model, SHAPE) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model.train()(image), torch.tensor([0, 1, 0, 1])).backward()
        optimizer.step()
    still = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
    assert still == UNUSED


def test_it_is_built_frozen_and_training_mode_reaches_the_encoder() -> None:
    model = FullFinetune(DemoCLIP("tiny"), 2)
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    assert all(module.training for module in model.train().modules())
    assert not any(module.training for module in model.eval().modules())


def test_making_it_trainable_moves_neither_modes_nor_random_state_nor_statistics() -> None:
    class Normed(DemoCLIP):
        def __init__(self) -> None:
            super().__init__("tiny")
            self.normed = nn.BatchNorm2d(1).eval()

        def encode_image(self, image: Tensor) -> dict[str, Tensor]:
            return super().encode_image(self.normed(image))

    model = FullFinetune(Normed(), 2).train()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train_whole(model, image_shape=SHAPE)
    assert torch.equal(torch.rand(1), expected)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients(image: Tensor) -> None:
    def run(checkpointing: bool) -> tuple[int, list[Tensor]]:
        model, kept = network(checkpointing=checkpointing), []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            loss = model(image).square().sum()
        loss.backward()
        return sum(kept), [p.grad for p in model.parameters() if p.requires_grad]

    (much, plain), (little, again) = run(False), run(True)
    assert little < much / 2
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)


def test_a_checkpointed_network_saves_the_plain_names() -> None:
    assert list(network(checkpointing=True).state_dict()) == list(FullFinetune(DemoCLIP("tiny"), 2).state_dict())


class Whole(nn.Module):
    """A timm network with its own classifier in place of encoder and head."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        return self.encoder(image)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("vit_tiny_patch16_224", 32, {"depth": 5, "img_size": 32, "patch_size": 8}),
        ("resnet18", 64, {}),
        ("resnet14t", 64, {}),
    ],
)
def test_layers_are_numbered_as_timm_does(name: str, size: int, options: dict[str, int]) -> None:
    model = timm.create_model(name, num_classes=2, **options)
    groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5, min_scale=0, no_weight_decay_list=())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scale = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    top = max(round(math.log(value, 0.5)) for value in scale.values())
    expected = {key: top - round(math.log(value, 0.5)) for key, value in scale.items()}
    classifier = {f"{part}.{kind}" for part in ("head", "fc") for kind in ("weight", "bias")}
    found = {
        key.removeprefix("encoder."): layer for key, layer in layer_numbers(Whole(model), (1, 3, size, size)).items()
    }
    assert {key: layer for key, layer in found.items() if key not in classifier} == {
        key: layer for key, layer in expected.items() if key not in classifier
    }


def test_groups_hold_each_trained_parameter_once_with_the_rate_of_its_layer() -> None:
    model = train_whole(FullFinetune(CLIPEncoder("ViT-B-32-quickgelu", "tiny"), 2), image_shape=(1, 3, 224, 224))
    groups = layer_decay_groups(model, image_shape=(1, 3, 224, 224), learning_rate=1.0, decay=0.5, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rate = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rate)
    assert set(rate) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    visual = "encoder.visual"
    assert rate["head.weight"] == (1.0, 0.1)
    assert rate["head.bias"] == (1.0, 0.0)
    # The projection behind the last block belongs to it, though it is a parameter of the tower like the table below.
    assert rate[f"{visual}.proj"] == (0.5, 0.1)
    assert rate[f"{visual}.transformer.resblocks.1.attn.in_proj_weight"] == (0.5, 0.1)
    assert rate[f"{visual}.transformer.resblocks.0.mlp.c_fc.weight"] == (0.25, 0.1)
    assert rate[f"{visual}.positional_embedding"] == (0.125, 0.1)
    assert rate[f"{visual}.conv1.weight"] == (0.125, 0.1)


def test_decay_1_is_one_rate_and_others_are_refused() -> None:
    model = network()
    rates = {g["lr"] for g in layer_decay_groups(model, image_shape=SHAPE, learning_rate=0.1, decay=1.0)}
    assert rates == {0.1}
    with pytest.raises(ValueError, match=r"`decay` must be in \(0, 1\]"):
        layer_decay_groups(model, image_shape=SHAPE, learning_rate=0.1, decay=0)


def test_blocks_are_the_innermost_repeated_parts() -> None:
    swin = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=24, depths=(1, 1, 2, 1))
    names = [f"layers.{stage}.blocks.{block}" for stage, depth in enumerate((1, 1, 2, 1)) for block in range(depth)]
    assert list(blocks(swin)) == names
    assert list(blocks(DemoCLIP("tiny").image)) == [*(f"stages.{i}" for i in range(4)), "blocks.0"]
