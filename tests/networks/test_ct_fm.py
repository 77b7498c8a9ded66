"""CT-FM: published names, the official script's features, and what looks like it but is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder, SegResNetDS
from safetensors.torch import save_file
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.encoders import ct_fm
from fairmedfm_monai.networks.encoders.ct_fm import GEOMETRY, GRIDS, TINY, CTFMEncoder, rename_ct_fm
from fairmedfm_monai.usages import lora
from fairmedfm_monai.usages.full_finetune import FullFinetune, train_whole
from fairmedfm_monai.usages.layer_decay import layer_numbers
from fairmedfm_monai.usages.linear_probe import LinearProbe
from tests.networks import cnn_checks, encoder_checks, parity
from tests.networks.test_keys import read_keys

KEYS = "ct_fm_feature_extractor"


def published(seed: int) -> dict[str, Tensor]:
    return cnn_checks.cnn_state(cnn_checks.shapes_of(read_keys(KEYS)), seed)


def volume(seed: int) -> Tensor:
    """Two small volumes whose axes differ in length."""
    return parity.seeded_input((2, 1, 24, 64, 48), seed, low=0, high=1)


@torch.no_grad()
def ours(seed: int) -> dict[str, Tensor]:
    """The outputs that the recording holds, of our class."""
    encoder = CTFMEncoder("5x2x2mm", "random")
    load_checked(encoder.net, rename_ct_fm(published(seed)), origin="seeded")
    encoder.check_image = lambda image: None  # type: ignore[method-assign, assignment]  # any size works
    return {"features": encoder(volume(seed))}


def test_features_are_those_of_the_official_code() -> None:
    record = parity.read("ct_fm")
    parity.compare(record, ours(record["weight_seed"]), tolerance=1e-4)


def test_every_published_tensor_is_taken() -> None:
    keys = read_keys(KEYS)
    with torch.device("meta"):
        encoder = CTFMEncoder("3x1x1mm", "random")
    load_checked(encoder.net, rename_ct_fm(keys), origin=KEYS)
    assert (len(keys), len(encoder.state_dict()), encoder.feature_dim) == (161, 161, 512)


def test_statistics_of_the_batches_are_used() -> None:
    """Instance norm takes every weight of the file, the 78 statistics apart, and computes something else."""
    state = cnn_checks.cnn_state(cnn_checks.shapes_of(SegResEncoder(**TINY).state_dict()), 1)
    with torch.device("meta"):
        other = SegResEncoder(**{**GEOMETRY, "norm": "instance"})
    with pytest.raises(WeightsError, match="83 of 83 tensors match, 0 missing, 78 unexpected"):
        load_checked(other, read_keys(KEYS), origin="file")
    encoder, other = SegResEncoder(**TINY).eval(), SegResEncoder(**{**TINY, "norm": "instance"}).eval()
    load_checked(encoder, state, origin="seeded")
    load_checked(other, {name: state[name] for name in other.state_dict()}, origin="without statistics")
    with torch.no_grad():
        features = [net(volume(1))[-1].mean((2, 3, 4)) for net in (encoder, other)]
    assert torch.cosine_similarity(*features).max() < 0.99


class TestFiles:
    def test_the_hubs_file_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ct_fm, "GEOMETRY", TINY)
        state = cnn_checks.cnn_state(cnn_checks.shapes_of(SegResEncoder(**TINY).state_dict()), 1)
        save_file(state, tmp_path / "file.safetensors")
        loaded = CTFMEncoder("3x1x1mm", tmp_path / "file.safetensors").net.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())

    def test_the_encoder_of_a_segmenter_is_taken_without_its_decoder(self) -> None:
        with torch.device("meta"):
            segmenter = SegResNetDS(init_filters=32, blocks_down=(1, 2, 2, 4, 4), norm="batch", out_channels=118)
            encoder = CTFMEncoder("3x1x1mm", "random")
        state = segmenter.state_dict()
        renamed = rename_ct_fm(state)
        load_checked(encoder.net, renamed, origin="segmenter")
        dropped = state.keys() - {f"encoder.{name}" for name in renamed}
        assert {name.split(".")[0] for name in dropped} == {"up_layers"}

    def test_files_of_other_models_are_refused(self, tmp_path: Path) -> None:
        state = {name: torch.zeros(1) for name in read_keys(KEYS)}
        del state["layers.0.blocks.0.norm1.running_mean"]
        message = "of 161 tensors match, 1 missing, 0 unexpected.*norm1.running_mean"
        encoder_checks.check_refusals(CTFMEncoder, "3x1x1mm", tmp_path / "file.pth", state, message)
        message = "0 of 161 tensors match, 161 missing, 1 unexpected"
        encoder_checks.check_refusals(
            CTFMEncoder, "3x1x1mm", tmp_path / "file.pth", {"up.0.weight": torch.zeros(1)}, message
        )


def test_windows_fit_the_stride_of_the_network() -> None:
    stride = 2 ** (len(TINY["blocks_down"]) - 1)
    assert all(edge % stride == 0 for grid in GRIDS.values() for edge in grid.window)


def test_interface() -> None:
    cnn_checks.check_volume_interface(CTFMEncoder, "ct_fm", "5x2x2mm")


@torch.no_grad()
def test_the_grid_of_the_pre_training_is_the_default() -> None:
    encoder = CTFMEncoder(weights="tiny")
    assert (encoder.grid.spacing, encoder.grid.window) == ((3, 1, 1), (96, 224, 288))
    assert encoder(torch.zeros(1, 1, 96, 224, 288)).shape == (1, encoder.feature_dim)


def test_variants() -> None:
    encoder_checks.check_variants(CTFMEncoder, "ct_fm")


def test_lora() -> None:
    cnn_checks.check_lora(CTFMEncoder, "ct_fm", "5x2x2mm", found=26)


def test_layers_that_take_adapters_are_listed() -> None:
    network = LinearProbe(CTFMEncoder("5x2x2mm", "tiny"), 2)
    with pytest.raises(ValueError, match=r"nothing in the encoder is called qkv; layers there are .*conv1, conv2"):
        lora.add_lora(network, rank=2, alpha=4, dropout=0.0, target_modules=["qkv"])


def test_full_finetuning_reaches_every_parameter_from_the_first_level_to_the_last() -> None:
    shape = (1, 1, *GRIDS["5x2x2mm"].window)
    network = train_whole(FullFinetune(CTFMEncoder("5x2x2mm", "tiny"), 2), image_shape=shape)
    assert lora.check_gradients(network, shape) == sum(parameter.numel() for parameter in network.parameters())
    layers = layer_numbers(network, shape)
    levels = [layers[f"encoder.net.layers.{level}.blocks.0.conv1.weight"] for level in range(5)]
    assert levels == sorted(set(levels))
    assert layers["head.weight"] == max(layers.values()) > levels[-1]
    assert layers["encoder.net.conv_init.weight"] < levels[0]


def test_batch_statistics_stay() -> None:
    cnn_checks.check_frozen_statistics(CTFMEncoder, "5x2x2mm")


def test_it_can_be_scripted() -> None:
    encoder = CTFMEncoder("5x2x2mm", "tiny")
    image = cnn_checks.tiny_input(encoder, count=1)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(encoder)(image), encoder(image))
