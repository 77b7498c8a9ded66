"""C2L: published names without a rest, the official code's outputs, and only 224 pixels."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import load_checked
from fairmedfm_monai.networks.encoders.c2l import C2LEncoder, rename_c2l, rename_c2l_pooled
from tests.networks import cnn_checks, encoder_checks, parity
from tests.networks.test_keys import read_keys

KEYS = "c2l_resnet18"
VARIANTS = {"resnet18": rename_c2l, "resnet18_pooled": rename_c2l_pooled}


def published(seed: int) -> dict[str, Tensor]:
    return cnn_checks.cnn_state(cnn_checks.shapes_of(read_keys(KEYS)), seed)


def images(seed: int) -> Tensor:
    return encoder_checks.images(224, seed, amplitude=2)


@torch.no_grad()
def ours(seed: int) -> dict[str, Tensor]:
    """The outputs that the recording holds, of our class."""
    outputs = {}
    for variant, rename in VARIANTS.items():
        encoder = C2LEncoder(variant, "random")
        load_checked(encoder.net, rename(published(seed)), origin="seeded")
        outputs[variant] = encoder(images(seed))
    return outputs


def test_features_are_those_of_the_official_code() -> None:
    record = parity.read("c2l")
    parity.compare(record, ours(record["weight_seed"]), tolerance=1e-4)


def test_every_published_tensor_is_taken() -> None:
    keys = read_keys(KEYS)
    with torch.device("meta"):
        whole, pooled = C2LEncoder("resnet18", "random"), C2LEncoder("resnet18_pooled", "random")
    load_checked(whole.net, rename_c2l(keys), origin=KEYS)
    load_checked(pooled.net, rename_c2l_pooled(keys), origin=KEYS)
    assert (len(keys), len(whole.state_dict()), len(pooled.state_dict())) == (122, 122, 120)
    assert rename_c2l(keys).keys() - rename_c2l_pooled(keys).keys() == {"fc.weight", "fc.bias"}


class TestFiles:
    def test_a_training_file_with_options_optimiser_and_the_slow_copy_is_read(self, tmp_path: Path) -> None:
        state, slow = published(1), published(2)
        content = {"opt": argparse.Namespace(model="resnet18"), "model": state, "model_ema": slow, "epoch": 120}
        content |= {"optimizer": {"state": {}, "param_groups": []}, "contrast": {"memory": torch.zeros(3)}}
        torch.save(content, tmp_path / "file.pth")
        loaded = C2LEncoder("resnet18", tmp_path / "file.pth").net.state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in rename_c2l(state).items())

    def test_files_of_other_models_are_refused(self, tmp_path: Path) -> None:
        path, state = tmp_path / "file.pth", published(1)
        del state["encoder.module.fc.weight"]
        message = "121 of 122 tensors match, 1 missing, 0 unexpected"
        encoder_checks.check_refusals(C2LEncoder, "resnet18", path, state, message)
        slow = {name.replace("encoder.module.", "encoder_k."): tensor for name, tensor in published(1).items()}
        message = "0 of 120 tensors match, 120 missing, 122 unexpected"
        encoder_checks.check_refusals(C2LEncoder, "resnet18_pooled", path, slow, message)


def test_the_trained_layer_gives_unit_length() -> None:
    image = images(0)
    with torch.no_grad():
        features = C2LEncoder("resnet18", "tiny")(image)
        assert C2LEncoder("resnet18_pooled", "tiny")(image).norm(dim=1).min() != pytest.approx(1, abs=1e-2)
    assert features.shape == (2, 128)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("variant", VARIANTS)
def test_interface(variant: str) -> None:
    encoder_checks.check_interface(C2LEncoder, "c2l", variant)


def test_variants() -> None:
    encoder_checks.check_variants(C2LEncoder, "c2l")


@pytest.mark.parametrize("variant", VARIANTS)
def test_lora(variant: str) -> None:
    cnn_checks.check_lora(C2LEncoder, "c2l", variant, found=17)


def test_batch_statistics_stay() -> None:
    cnn_checks.check_frozen_statistics(C2LEncoder, "resnet18")


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_can_be_scripted(variant: str) -> None:
    encoder = C2LEncoder(variant, "tiny")
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(encoder)(images(0)), encoder(images(0)))
