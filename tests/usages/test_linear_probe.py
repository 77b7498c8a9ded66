"""Linear probe."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.encoders.base import ImageEncoder
from fairmedfm_monai.networks.encoders.clip import CLIPEncoder
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.usages.linear_probe import LinearProbe


class SmallEncoder(ImageEncoder):
    """Has what a frozen encoder must not move: batch statistics and dropout."""

    def __init__(self) -> None:
        super().__init__(feature_dim=4, input_spec=InputSpec(size=8, mean=[0], std=[1], channels=1))
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1))

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        return {"features": self.layers(image).flatten(1)}


@pytest.fixture
def probe() -> LinearProbe:
    torch.manual_seed(0)
    return LinearProbe(SmallEncoder(), 3)


def test_only_the_head_moves_in_training(probe: LinearProbe) -> None:
    before = copy.deepcopy(probe.state_dict())
    probe.train()
    optimizer = torch.optim.SGD([p for p in probe.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        probe(torch.randn(5, 1, 8, 8)).square().sum().backward()
        optimizer.step()
    changed = {name for name, tensor in probe.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_training_mode_does_not_reach_the_encoder(probe: LinearProbe) -> None:
    image = torch.randn(2, 1, 8, 8)
    assert torch.equal(probe.train()(image), probe.eval()(image))
    assert probe.train().head.training


def test_logits_are_the_head_on_the_features(probe: LinearProbe) -> None:
    image = torch.randn(2, 1, 8, 8)
    expected = torch.nn.functional.linear(probe.encoder(image), probe.head.weight, probe.head.bias)
    assert torch.equal(probe(image), expected)


def test_the_head_takes_its_part_of_the_whole_models_state(probe: LinearProbe) -> None:
    other = LinearProbe(SmallEncoder(), 3, seed=1)
    other.head.load_state_dict(probe.state_dict())
    assert torch.equal(other.head.weight, probe.head.weight)
    other.head.load_state_dict(LinearProbe(SmallEncoder(), 3, seed=2).head.state_dict())
    assert not torch.equal(other.head.weight, probe.head.weight)


def test_another_networks_state_is_refused_even_when_not_strict(probe: LinearProbe) -> None:
    state = probe.state_dict()
    state["head.scale"] = state.pop("head.bias")
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        probe.load_state_dict(state, strict=False)


def test_the_text_tower_is_not_in_the_checkpoint_and_torchscript_gives_the_same_logits() -> None:
    probe = LinearProbe(CLIPEncoder("ViT-B-32-quickgelu", "tiny"), 2).eval()
    assert not any(name.startswith("encoder.text") for name in probe.state_dict())
    image = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(torch.jit.script(probe)(image), probe(image))


def test_a_head_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="`num_classes` must be at least 1"):
        LinearProbe(SmallEncoder(), 0)
