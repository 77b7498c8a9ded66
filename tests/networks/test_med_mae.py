"""MedMAE: published names with exactly the decoder left out, and the official code's features."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import load_checked
from fairmedfm_monai.networks.encoders.med_mae import MedMAEEncoder
from fairmedfm_monai.networks.encoders.timm_vit import rename_mae
from tests.networks import encoder_checks as checks
from tests.networks import parity
from tests.networks.test_keys import read_keys

# List of names, tensors in the file, decoder blocks.
FILES = {"vit_b": ("medmae_vit_base_mae", 254, 8), "vit_s": ("medmae_vit_small_mae", 182, 2)}
BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


def published(variant: str, seed: int) -> dict[str, Tensor]:
    keys = read_keys(FILES[variant][0])
    return checks.vit_state({name: tensor.shape for name, tensor in keys.items()}, seed)


@torch.no_grad()
def ours(seed: int) -> dict[str, Tensor]:
    """The outputs that the recording holds, of our classes."""
    outputs = {}
    for variant in FILES:
        encoder = MedMAEEncoder(variant, "random")
        load_checked(encoder.vit, rename_mae(published(variant, seed)), origin="seeded")
        outputs[variant] = encoder(checks.images(224, seed))
    return outputs


def test_features_are_those_of_the_official_code() -> None:
    record = parity.read("med_mae")
    parity.compare(record, ours(record["weight_seed"]), tolerance=1e-4)


@pytest.mark.parametrize("variant", FILES)
def test_every_published_tensor_is_taken_but_those_of_the_decoder(variant: str) -> None:
    name, count, decoder_blocks = FILES[variant]
    keys = read_keys(name)
    with torch.device("meta"):
        encoder = MedMAEEncoder(variant, "random")
    kept = rename_mae(keys)
    load_checked(encoder.vit, kept, origin=name)
    assert (len(keys), len(kept)) == (count, 150)
    layers = ["decoder_embed", "decoder_norm", "decoder_pred"]
    layers += [f"decoder_blocks.{number}.{part}" for number in range(decoder_blocks) for part in BLOCK]
    expected = {"mask_token", "decoder_pos_embed"} | {f"{name}.{end}" for name in layers for end in ("weight", "bias")}
    assert set(keys) - set(kept) == expected


def test_nothing_else_is_dropped() -> None:
    names = ("decoder", "decoder_blocks.0.attn.other.weight", "decoder_head.weight", "blocks.0.decoder_norm.weight")
    assert rename_mae({name: torch.zeros(1) for name in names}).keys() == set(names)


class TestFiles:
    def test_a_training_file_with_options_and_optimiser_is_read(self, tmp_path: Path) -> None:
        state = published("vit_s", 1)
        content = {"model": state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 799}
        torch.save({**content, "args": argparse.Namespace(model="mae"), "scaler": {}}, tmp_path / "file.pth")
        loaded = MedMAEEncoder("vit_s", tmp_path / "file.pth").vit.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())

    def test_a_network_fine_tuned_with_mean_pooling_is_refused(self, tmp_path: Path) -> None:
        """Its `norm` was thrown away: filling ours with anything would give features that nobody trained."""
        state = rename_mae(published("vit_s", 1))
        state["fc_norm.weight"], state["fc_norm.bias"] = state.pop("norm.weight"), state.pop("norm.bias")
        checks.check_refusals(MedMAEEncoder, "vit_s", tmp_path / "file.pth", state, "fine-tuned with mean pooling")

    def test_files_of_other_models_are_refused(self, tmp_path: Path) -> None:
        state = published("vit_s", 1)
        checks.check_refusals(
            MedMAEEncoder, "vit_b", tmp_path / "file.pth", {"model": state}, "8 missing|150 of another shape"
        )
        del state["norm.weight"]
        checks.check_refusals(
            MedMAEEncoder, "vit_s", tmp_path / "file.pth", state, r"149 of 150 tensors match, 1 missing, 0 unexpected"
        )


def test_the_probe_reads_the_class_token_after_the_trained_normalisation() -> None:
    encoder = MedMAEEncoder("vit_s", "tiny")
    image = checks.images(224)
    with torch.no_grad():
        tokens = encoder.vit.forward_features(image)
        assert torch.equal(encoder(image), tokens[:, 0])
    assert not any("fc_norm" in name for name in encoder.state_dict())


@pytest.mark.parametrize("variant", FILES)
def test_interface(variant: str) -> None:
    checks.check_interface(MedMAEEncoder, "med_mae", variant)


def test_variants() -> None:
    checks.check_variants(MedMAEEncoder, "med_mae")


def test_lora() -> None:
    checks.check_lora(MedMAEEncoder, "med_mae", "vit_b")
