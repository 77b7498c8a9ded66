"""DINOv3: published names of three kinds, the official code's outputs, and the traps of its biases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm import create_model
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.encoders.dinov3 import DINOv3Encoder, build_dinov3, dinov3_settings, rename_dinov3
from tests.networks import encoder_checks as checks
from tests.networks import parity
from tests.networks.test_keys import read_keys

COUNTS = {"vits16": 188, "vits16plus": 212, "vitb16": 188, "vitl16": 368, "vith16plus": 552}
# The small one whole, of the others the first blocks.
DEPTHS = {"vits16": 12, "vits16plus": 2, "vitb16": 2, "vitl16": 2, "vith16plus": 2}


@torch.no_grad()
def ours(seed: int) -> dict[str, Tensor]:
    """The outputs that the recording holds, of our network."""
    outputs = {}
    for variant, depth in DEPTHS.items():
        vit = build_dinov3({**dinov3_settings(variant), "num_hidden_layers": depth}).eval()
        state = checks.vit_state(checks.first_blocks(read_keys(f"dinov3_{variant}"), depth), seed)
        load_checked(vit, rename_dinov3(state), origin="seeded")
        output = vit(checks.images(256, seed))
        outputs[f"{variant}_features"] = output.pooler_output
        outputs[f"{variant}_tokens"] = output.last_hidden_state[:, 1:]
    return outputs


def test_outputs_are_those_of_the_official_code() -> None:
    record = parity.read("dinov3")
    parity.compare(record, ours(record["weight_seed"]), tolerance=1e-4)


@pytest.mark.parametrize("variant", COUNTS)
def test_every_tensor_of_the_authors_files_is_taken(variant: str) -> None:
    keys = read_keys(f"dinov3_{variant}")
    assert len(keys) == COUNTS[variant]
    with torch.device("meta"):
        encoder = DINOv3Encoder(variant, "random")
    load_checked(encoder.vit, rename_dinov3(keys), origin=variant)


def test_every_tensor_of_the_hubs_files_is_taken_but_the_mask_token() -> None:
    keys = read_keys("dinov3_vitb16_hub4x")
    with torch.device("meta"):
        encoder = DINOv3Encoder("vitb16", "random")
    renamed = rename_dinov3(keys)
    load_checked(encoder.vit, renamed, origin="hub")
    assert (len(keys), len(renamed)) == (211, 210)


class TestBiases:
    def state(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        shapes = checks.first_blocks(read_keys("dinov3_vits16"), 1)
        return {name: tensor.to(dtype) for name, tensor in checks.vit_state(shapes, 0).items()}

    def test_queries_and_values_keep_theirs(self) -> None:
        state = self.state()
        bias = state["blocks.0.attn.qkv.bias"]
        renamed = rename_dinov3(state)
        attention = "model.layer.0.attention"
        assert torch.equal(renamed[f"{attention}.q_proj.bias"], bias[:384])
        assert torch.equal(renamed[f"{attention}.v_proj.bias"], bias[768:])
        assert f"{attention}.k_proj.bias" not in renamed

    def test_a_mask_in_half_precision_is_fine(self) -> None:
        assert len(rename_dinov3(self.state(torch.bfloat16)))

    def test_a_network_that_was_never_initialised_is_refused(self) -> None:
        """Official code that neither loads nor initialises leaves NaN in its masks, and in all it computes."""
        state = self.state()
        state["blocks.0.attn.qkv.bias_mask"].fill_(torch.nan)
        with pytest.raises(WeightsError, match=r"layer\.0\.attention.* has another \(NaN where"):
            rename_dinov3(state)

    def test_a_bias_without_mask_is_refused_because_keys_would_need_one(self) -> None:
        state = self.state()
        del state["blocks.0.attn.qkv.bias_mask"]
        with pytest.raises(WeightsError, match="bias_mask of ones, zeros and ones, but has none"):
            rename_dinov3(state)


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3"])
def test_timms_copies_without_biases_give_timms_features(name: str) -> None:
    theirs = create_model(name, num_classes=0, depth=2, img_size=256, global_pool="token").eval()
    state = checks.vit_state({key: tensor.shape for key, tensor in theirs.state_dict().items()}, 0)
    theirs.load_state_dict(state)
    variant = "vits16plus" if "plus" in name else "vits16"
    vit = build_dinov3({**dinov3_settings(variant), "num_hidden_layers": 2}).eval()
    load_checked(vit, rename_dinov3(state), origin="timm")
    image = checks.images(256)
    with torch.no_grad():
        torch.testing.assert_close(vit(image).pooler_output, theirs(image), atol=2e-5, rtol=0)


def test_training_mode_leaves_the_positions_alone() -> None:
    """The class stretches the coordinates of patches at random while training, unless it is told not to."""
    encoder = DINOv3Encoder("vits16", "tiny")
    image = checks.images(256)
    with torch.no_grad():
        assert torch.equal(encoder.train()(image), encoder.eval()(image))


def test_files_of_other_models_are_refused(tmp_path: Path) -> None:
    state = {"local_cls_norm.weight": torch.ones(384), "norm.weight": torch.ones(384)}  # of the satellite weights
    message = r"1 of 210 tensors match, 209 missing, 1 unexpected, .*local_cls_norm.weight"
    checks.check_refusals(DINOv3Encoder, "vits16", tmp_path / "file.pth", state, message)


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    keys = read_keys("dinov3_vits16")
    state = checks.vit_state({name: tensor.shape for name, tensor in keys.items()}, 1)
    torch.save(state, tmp_path / "file.pth")
    loaded = DINOv3Encoder("vits16", tmp_path / "file.pth").vit.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in rename_dinov3(state).items())
    assert all(tensor.isfinite().all() for tensor in loaded.values())


@pytest.mark.parametrize("variant", ["vits16", "vits16plus"])
def test_interface(variant: str) -> None:
    checks.check_interface(DINOv3Encoder, "dinov3", variant)


def test_variants() -> None:
    checks.check_variants(DINOv3Encoder, "dinov3")


@pytest.mark.parametrize("variant", ["vitb16", "vits16plus"])
def test_lora(variant: str) -> None:
    checks.check_lora(DINOv3Encoder, "dinov3", variant)
