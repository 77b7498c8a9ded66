"""Volumes for models of pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.encoders.clip import CLIPEncoder
from fairmedfm_monai.networks.encoders.demo_clip import DemoCLIP
from fairmedfm_monai.usages.linear_probe import LinearProbe
from fairmedfm_monai.usages.slice_pooling import SliceEncoder, SlicePooling
from fairmedfm_monai.usages.zero_shot import ZeroShotClassifier

CLASSES = {"none": ["no nodule"], "some": ["a nodule"]}


@pytest.fixture(scope="module")
def volumes() -> Tensor:
    return torch.randn(2, 1, 128, 128, 5, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_slices_are_encoded_as_pictures_whatever_the_batch(volumes: Tensor) -> None:
    encoder = DemoCLIP("tiny")
    encoded = SliceEncoder(encoder, slice_batch=3).encode_image(volumes)
    for name in ("features", "zero_shot"):
        alone = torch.stack([encoder.encode_image(volumes[..., index])[name] for index in range(5)], dim=1)
        torch.testing.assert_close(encoded[name], alone, atol=1e-5, rtol=1e-5)
    picture = volumes[..., 0]
    assert torch.equal(SliceEncoder(encoder)(picture), encoder(picture))


def fairmedfm_max(logits: Tensor, positive: int) -> Tensor:
    """The published rule, case by case: softmax, slice of the largest positive probability, its logits."""
    return torch.stack([case[int(case.softmax(-1)[:, positive].argmax())] for case in logits])


@pytest.mark.parametrize("positive", [0, 1])
def test_max_takes_the_slice_of_the_largest_positive_probability(positive: int) -> None:
    torch.manual_seed(1)
    linear, features = nn.Linear(4, 2), torch.randn(6, 9, 4)
    pooled = SlicePooling(linear, mode="max", dim=4, negative=1 - positive)(features)
    assert torch.equal(pooled, fairmedfm_max(linear(features), positive))


def test_max_over_several_classes_takes_the_slice_least_like_the_negative_one() -> None:
    torch.manual_seed(2)
    linear, features = nn.Linear(4, 3), torch.randn(6, 9, 4)
    pooled = SlicePooling(linear, mode="max", dim=4, negative=2)(features)
    least = linear(features).softmax(-1)[..., 2].amin(dim=1)
    torch.testing.assert_close(pooled.softmax(-1)[:, 2], least)


def test_independent_labels_take_their_own_slices() -> None:
    linear, features = nn.Linear(4, 3), torch.randn(6, 9, 4)
    pooled = SlicePooling(linear, mode="max", dim=4)(features)
    assert torch.equal(pooled, linear(features).max(dim=1).values)


def test_mean_and_attention_are_their_formulas() -> None:
    torch.manual_seed(3)
    linear, features = nn.Linear(4, 2), torch.randn(6, 9, 4)
    torch.testing.assert_close(
        SlicePooling(linear, mode="mean", dim=4)(features), linear(features).mean(dim=1), atol=1e-6, rtol=1e-5
    )
    pooling = SlicePooling(linear, mode="attention", dim=4)
    inner, outer = pooling.attention[0], pooling.attention[2]
    energy = torch.tanh(features @ inner.weight.T + inner.bias) @ outer.weight[0]
    weights = energy.exp() / energy.exp().sum(dim=1, keepdim=True)
    torch.testing.assert_close(pooling(features), linear(torch.einsum("bn,bnd->bd", weights, features)))


@pytest.mark.parametrize("mode", ["max", "mean", "attention"])
def test_the_order_of_slices_does_not_matter(mode: str) -> None:
    pooling = SlicePooling(nn.Linear(4, 2), mode=mode, dim=4, negative=0)
    features = torch.randn(3, 7, 4)
    torch.testing.assert_close(pooling(features[:, torch.randperm(7)]), pooling(features))


@pytest.mark.parametrize("mode", ["max", "mean", "attention"])
@torch.no_grad()
def test_cached_slices_give_the_logits_of_the_volume(mode: str, volumes: Tensor) -> None:
    probe = LinearProbe(DemoCLIP("tiny"), 2, pooling=mode, negative=0).eval()
    cached = probe.encoder.encode_image(volumes)["features"]
    assert cached.shape == (2, 5, probe.encoder.feature_dim)
    torch.testing.assert_close(probe.head(cached), probe(volumes), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["max", "mean", "attention"])
@torch.no_grad()
def test_pictures_and_torchscript_go_the_same_way(mode: str) -> None:
    probe = LinearProbe(CLIPEncoder("ViT-B-32-quickgelu", "tiny"), 2, pooling=mode, negative=0).eval()
    scripted = torch.jit.script(probe)
    volume = torch.randn(2, 3, 224, 224, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(scripted(volume), probe(volume), atol=1e-5, rtol=1e-5)
    picture = volume[..., 0]
    torch.testing.assert_close(probe(picture), probe(picture[..., None]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scripted(picture), probe(picture), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["max", "mean", "attention"])
def test_the_head_takes_its_part_of_the_whole_state(mode: str) -> None:
    trained, other = (LinearProbe(DemoCLIP("tiny"), 2, pooling=mode, negative=0, seed=seed) for seed in (1, 2))
    other.head.load_state_dict(trained.state_dict())
    assert all(torch.equal(value, trained.head.state_dict()[name]) for name, value in other.head.state_dict().items())


def test_a_training_encoder_keeps_no_activations_of_slices_but_gets_the_same_gradient(volumes: Tensor) -> None:
    saved: list[int] = []

    def gradients(slicewise: nn.Module, image: Tensor) -> list[Tensor]:
        slicewise.requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
            loss = slicewise(image).square().sum()
        parameters = list(encoder.image.parameters())
        return list(torch.autograd.grad(loss, parameters))

    encoder = DemoCLIP("tiny").requires_grad_(True)
    found = gradients(SliceEncoder(encoder, slice_batch=1), volumes)
    kept = sum(saved)
    saved.clear()
    plain = gradients(encoder, volumes.permute(0, 4, 1, 2, 3).flatten(0, 1))
    assert kept < sum(saved) / 10
    for one, other in zip(found, plain, strict=True):
        assert (one - other).abs().max() <= 1e-3 * other.abs().max()  # sums in another order


def test_zero_shot_on_volumes_is_the_strongest_slice(volumes: Tensor) -> None:
    pooled = ZeroShotClassifier(DemoCLIP("tiny"), CLASSES, pooling="max", negative=0)
    plain = ZeroShotClassifier(DemoCLIP("tiny"), CLASSES)
    slices = torch.stack([plain(volumes[..., index]) for index in range(5)], dim=1)
    torch.testing.assert_close(pooled(volumes), fairmedfm_max(slices, 1), atol=1e-4, rtol=1e-4)


def test_poolings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="`pooling` must be one of max, mean, attention"):
        LinearProbe(DemoCLIP("tiny"), 2, pooling="median")
    with pytest.raises(ValueError, match="attention would have to be trained"):
        ZeroShotClassifier(DemoCLIP("tiny"), CLASSES, pooling="attention")
    with pytest.raises(ValueError, match="`slice_batch` must be at least 1"):
        SliceEncoder(DemoCLIP("tiny"), slice_batch=0)
