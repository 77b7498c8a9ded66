"""LVM-Med: published names, the official ViT's features, and torchvision's and transformers' ResNet-50."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import load_checked
from fairmedfm_monai.networks.encoders import lvm_med
from fairmedfm_monai.networks.encoders.lvm_med import LVMMedEncoder, PooledViT, rename_resnet, rename_vit
from fairmedfm_monai.usages import lora
from fairmedfm_monai.usages.linear_probe import LinearProbe
from tests.networks import cnn_checks, encoder_checks, parity
from tests.networks.test_keys import read_keys

KEYS = "lvm_med_vit"
NECK = {f"neck.{name}" for name in ("0.weight", "1.weight", "1.bias", "2.weight", "3.weight", "3.bias")}


def published(seed: int) -> dict[str, Tensor]:
    return cnn_checks.cnn_state(cnn_checks.shapes_of(read_keys(KEYS)), seed)


def images(seed: int) -> Tensor:
    return encoder_checks.images(224, seed, amplitude=2)


@torch.no_grad()
def ours(seed: int) -> dict[str, Tensor]:
    """The outputs that the recording holds, of our class."""
    encoder = LVMMedEncoder("vit_b", "random")
    load_checked(encoder.net, rename_vit(published(seed)), origin="seeded")
    return {"vit_b": encoder(images(seed))}


def test_features_are_those_of_the_official_code() -> None:
    record = parity.read("lvm_med")
    parity.compare(record, ours(record["weight_seed"]), tolerance=1e-4)


def test_every_published_tensor_is_taken_but_the_neck() -> None:
    keys = read_keys(KEYS)
    with torch.device("meta"):
        encoder = LVMMedEncoder("vit_b", "random")
    kept = rename_vit(keys)
    load_checked(encoder.net, kept, origin=KEYS)
    assert (len(keys), len(kept), encoder.feature_dim) == (176, 170, 768)
    assert keys.keys() - kept.keys() == NECK
    assert not any("pos_embed" in name for name in kept)


class TestResNet:
    @torch.no_grad()
    def test_it_is_torchvisions(self) -> None:
        from torchvision.models import resnet50

        theirs = resnet50()
        state = cnn_checks.cnn_state(cnn_checks.shapes_of(theirs.state_dict()), 1)
        theirs.load_state_dict(state)
        theirs.fc = torch.nn.Identity()
        encoder = LVMMedEncoder("resnet50", "random")
        load_checked(encoder.net, rename_resnet(state), origin="torchvision")
        expected = theirs.eval()(images(1))
        assert encoder.feature_dim == 2048
        torch.testing.assert_close(encoder(images(1)), expected, atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_the_hubs_names_are_taken(self) -> None:
        from transformers import ResNetConfig, ResNetModel

        theirs = ResNetModel(ResNetConfig()).eval()
        state = cnn_checks.cnn_state(cnn_checks.shapes_of(theirs.state_dict()), 2)
        theirs.load_state_dict(state)
        encoder = LVMMedEncoder("resnet50", "random")
        load_checked(encoder.net, rename_resnet(state), origin="hub")
        expected = theirs(images(2)).pooler_output.flatten(1)
        torch.testing.assert_close(encoder(images(2)), expected, atol=1e-5, rtol=1e-5)

    def test_a_classifier_is_dropped_and_nothing_else(self) -> None:
        names = ("fc.weight", "fc.bias", "layer1.0.fc.weight", "head.weight")
        assert set(rename_resnet({name: torch.zeros(1) for name in names})) == {"layer1.0.fc.weight", "head.weight"}


class TestFiles:
    def test_the_authors_file_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lvm_med, "VIT_B", lvm_med.TINY)
        state = cnn_checks.cnn_state(cnn_checks.shapes_of(PooledViT(**lvm_med.TINY).state_dict()), 1)
        torch.save({**state, "neck.0.weight": torch.zeros(256, 48, 1, 1)}, tmp_path / "file.pth")
        loaded = LVMMedEncoder("vit_b", tmp_path / "file.pth").net.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())

    def test_files_of_other_models_are_refused(self, tmp_path: Path) -> None:
        path, state = tmp_path / "file.pth", {name: torch.zeros(1) for name in read_keys(KEYS)}
        sam = {**state, "pos_embed": torch.zeros(1, 64, 64, 768)}
        message = r"of 170 tensors match, 0 missing, 1 unexpected.*pos_embed"
        encoder_checks.check_refusals(LVMMedEncoder, "vit_b", path, sam, message)
        hub = {"embeddings.cls_token": torch.zeros(1, 1, 768), "encoder.layer.0.output.dense.bias": torch.zeros(768)}
        message = "0 of 170 tensors match, 170 missing, 2 unexpected"
        encoder_checks.check_refusals(LVMMedEncoder, "vit_b", path, hub, message)
        message = "0 of 318 tensors match, 318 missing, 176 unexpected"
        encoder_checks.check_refusals(LVMMedEncoder, "resnet50", path, state, message)


@pytest.mark.parametrize("variant", ["vit_b", "resnet50"])
def test_interface(variant: str) -> None:
    encoder_checks.check_interface(LVMMedEncoder, "lvm_med", variant)


def test_variants() -> None:
    encoder_checks.check_variants(LVMMedEncoder, "lvm_med")


def test_lora() -> None:
    cnn_checks.check_lora(LVMMedEncoder, "lvm_med", "vit_b", found=12)
    cnn_checks.check_lora(LVMMedEncoder, "lvm_med", "resnet50", found=33)


def test_lora_of_the_residual_network_says_what_is_missing() -> None:
    model = LinearProbe(LVMMedEncoder("resnet50", "tiny"), 2)
    with pytest.raises(ValueError, match=r"nothing in the encoder is called qkv; layers there are .*conv1, conv2"):
        lora.add_lora(model, rank=2, alpha=4, dropout=0.0, target_modules=["qkv"])
