"""Merlin's image tower: published names with exactly the other parts left out, and the official code's embedding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import load_checked
from fairmedfm_monai.networks.encoders import merlin
from fairmedfm_monai.networks.encoders.merlin import (
    BLOCKS,
    GRID,
    MerlinEncoder,
    build_tower,
    rename_merlin,
    slices_first,
)
from fairmedfm_monai.usages import lora
from fairmedfm_monai.usages.full_finetune import FullFinetune, train_whole
from fairmedfm_monai.usages.layer_decay import layer_numbers
from fairmedfm_monai.usages.linear_probe import LinearProbe
from tests.networks import cnn_checks, encoder_checks, parity
from tests.networks.test_keys import read_keys

KEYS = "merlin_clip"
HEADS = ("classifier", "contrastive_head")


def published(seed: int) -> dict[str, Tensor]:
    """Seeded weights of the image tower; the text tower is left out, to save time."""
    shapes = cnn_checks.shapes_of(read_keys(KEYS))
    return cnn_checks.cnn_state({name: shape for name, shape in shapes.items() if "encode_image" in name}, seed)


def volume(seed: int) -> Tensor:
    """Two small volumes (X, Y, Z) whose axes differ in length."""
    return parity.seeded_input((2, 1, 64, 48, 24), seed, low=0, high=1)


@torch.no_grad()
def ours(seed: int) -> dict[str, Tensor]:
    """The outputs that the recording holds, of our functions."""
    tower = build_tower(BLOCKS).eval()
    load_checked(tower, rename_merlin(published(seed)), origin="seeded")
    return {"features": tower(slices_first(volume(seed)))}


def test_features_are_those_of_the_official_code() -> None:
    record = parity.read("merlin")
    parity.compare(record, ours(record["weight_seed"]), tolerance=1e-4)


def test_every_published_tensor_of_the_tower_is_taken() -> None:
    keys = read_keys(KEYS)
    with torch.device("meta"):
        encoder = MerlinEncoder("default", "random")
    kept = rename_merlin(keys)
    load_checked(encoder.net, kept, origin=KEYS)
    assert (len(keys), len(kept), encoder.feature_dim) == (1208, 930, 2048)
    dropped = keys.keys() - {f"encode_image.i3_resnet.{name}" for name in kept}
    heads = {f"encode_image.i3_resnet.{head}.{part}" for head in HEADS for part in ("weight", "bias")}
    text = {name for name in dropped if name.startswith("encode_text.")}
    assert dropped - text == heads | {"logit_scale"}


def test_the_encoder_feeds_slices_first() -> None:
    """The depth of the network is the third axis of the file."""
    encoder = MerlinEncoder(weights="tiny")
    image = cnn_checks.tiny_input(encoder)[:1]
    with torch.no_grad():
        assert torch.equal(encoder(image), encoder.net(torch.cat([image.permute(0, 1, 4, 2, 3)] * 3, dim=1)))


class TestFiles:
    def test_the_authors_file_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(merlin, "BLOCKS", (1, 1, 1, 1))
        monkeypatch.setattr(merlin, "WIDTHS", (4, 8, 16, 32))
        shapes = cnn_checks.shapes_of(build_tower((1, 1, 1, 1), (4, 8, 16, 32)).state_dict())
        state = cnn_checks.cnn_state({f"encode_image.i3_resnet.{name}": shape for name, shape in shapes.items()}, 1)
        text = {"encode_text.linear_layer.weight": torch.zeros(512, 768), "logit_scale": torch.ones([])}
        torch.save({**state, **text}, tmp_path / "file.pt")
        loaded = MerlinEncoder("default", tmp_path / "file.pt").net.state_dict()
        assert all(torch.equal(tensor, state[f"encode_image.i3_resnet.{name}"]) for name, tensor in loaded.items())

    def test_files_of_other_models_are_refused(self, tmp_path: Path) -> None:
        state = {"decode_text.weight": torch.zeros(1), "encode_text.other.weight": torch.zeros(1)}
        message = "0 of 930 tensors match, 930 missing, 2 unexpected"
        encoder_checks.check_refusals(MerlinEncoder, "default", tmp_path / "file.pt", state, message)


def test_interface() -> None:
    cnn_checks.check_volume_interface(MerlinEncoder, "merlin", "default")


def test_variants() -> None:
    encoder_checks.check_variants(MerlinEncoder, "merlin")


def test_lora() -> None:
    cnn_checks.check_lora(MerlinEncoder, "merlin", "default", found=50)


def test_layers_that_take_adapters_are_listed() -> None:
    network = LinearProbe(MerlinEncoder("default", "tiny"), 2)
    with pytest.raises(ValueError, match=r"nothing in the encoder is called qkv; layers there are .*conv1, conv2"):
        lora.add_lora(network, rank=2, alpha=4, dropout=0.0, target_modules=["qkv"])


def test_full_finetuning_reaches_every_parameter_from_the_first_stage_to_the_last() -> None:
    shape = (1, 1, *GRID.window)
    network = train_whole(FullFinetune(MerlinEncoder("default", "tiny"), 2), image_shape=shape)
    assert lora.check_gradients(network, shape) == sum(parameter.numel() for parameter in network.parameters())
    layers = layer_numbers(network, shape)
    stages = [layers[f"encoder.net.layer{stage}.0.conv1.weight"] for stage in (1, 2, 3, 4)]
    assert stages == sorted(set(stages))
    assert layers["head.weight"] == max(layers.values()) > stages[-1]
    assert layers["encoder.net.conv1.weight"] < stages[0]


def test_batch_statistics_stay() -> None:
    cnn_checks.check_frozen_statistics(MerlinEncoder, "default")


def test_a_wrong_order_of_axes_is_named() -> None:
    with pytest.raises(ValueError, match=r"must be \(B, 1, 224, 224, 160\) with axes RAS.*orient it to RAS"):
        MerlinEncoder(weights="tiny")(torch.zeros(1, 1, 160, 224, 224))


def test_it_can_be_scripted() -> None:
    encoder = MerlinEncoder("default", "tiny")
    image = cnn_checks.tiny_input(encoder, count=1)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(encoder)(image), encoder(image))
