"""DINOv2: published names, the official code's outputs, and the rule for its position table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm import create_model
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.encoders.dinov2 import GEOMETRIES, DINOv2Encoder, fit_dinov2, rename_dinov2
from fairmedfm_monai.networks.encoders.timm_vit import build_vit, resample_positions
from tests.networks import encoder_checks as checks
from tests.networks import parity
from tests.networks.test_keys import read_keys

COUNTS = {"vits14": 175, "vitb14": 175, "vitl14": 343, "vitg14": 567}
DEPTHS = {"vits14": 12, "vitb14": 2, "vitl14": 2, "vitg14": 2}  # the small one whole, of the others the first blocks


@torch.no_grad()
def ours(seed: int) -> dict[str, Tensor]:
    """The outputs that the recording holds, of our network."""
    outputs = {}
    for variant, depth in DEPTHS.items():
        vit = build_vit({**GEOMETRIES[variant], "depth": depth}, 224).eval()
        state = checks.vit_state(checks.first_blocks(read_keys(f"dinov2_{variant}"), depth), seed)
        load_checked(vit, fit_dinov2(state), origin="seeded")
        image = checks.images(224, seed)
        outputs |= {f"{variant}_features": vit(image), f"{variant}_tokens": vit.forward_features(image)[:, 1:]}
    return outputs


def test_outputs_at_224_pixels_are_those_of_the_official_code() -> None:
    record = parity.read("dinov2")
    parity.compare(record, ours(record["weight_seed"]), tolerance=1e-4)


@pytest.mark.parametrize("variant", COUNTS)
def test_every_published_tensor_is_taken_but_the_mask_token(variant: str) -> None:
    keys = read_keys(f"dinov2_{variant}")
    assert len(keys) == COUNTS[variant]
    with torch.device("meta"):
        encoder = DINOv2Encoder(variant, "random")
    renamed = fit_dinov2(keys)
    load_checked(encoder.vit, renamed, origin=variant)
    assert len(renamed) == len(keys) - 1
    assert "mask_token" not in renamed


class TestPositions:
    def state(self) -> dict[str, Tensor]:
        return checks.vit_state({"pos_embed": (1, 1 + 37 * 37, 8)}, 0)

    def test_the_rule_matters(self) -> None:
        """Features of the rule that other libraries follow would be off by far more than the tolerance above."""
        official = resample_positions(self.state(), 16, offset=0.1)["pos_embed"]
        other = resample_positions(self.state(), 16, offset=0.0)["pos_embed"]
        assert (official - other).abs().max() > 0.01 * official.abs().max()
        assert torch.equal(official[:, 0], self.state()["pos_embed"][:, 0])

    def test_a_table_of_the_right_size_stays_as_it_is(self) -> None:
        state = {"pos_embed": torch.randn(1, 257, 8, dtype=torch.float16)}
        assert fit_dinov2(state)["pos_embed"] is state["pos_embed"]

    def test_a_ramp_keeps_its_values_at_the_centres_of_the_new_patches(self) -> None:
        ramp = torch.arange(32.0).expand(32, 32).reshape(1, 32 * 32, 1)
        table = torch.cat([torch.zeros(1, 1, 1), ramp], dim=1)
        moved = resample_positions({"pos_embed": table}, 16, offset=0.0)["pos_embed"][0, 1:, 0].view(16, 16)
        assert moved[5, 3:13].tolist() == pytest.approx([2 * index + 0.5 for index in range(3, 13)], abs=1e-4)

    def test_a_table_that_is_no_square_is_refused(self) -> None:
        with pytest.raises(WeightsError, match=r"its shape is \(1, 1374, 8\)"):  # with four registers
            fit_dinov2({"pos_embed": torch.zeros(1, 1374, 8)})


class TestFiles:
    def test_the_hubs_file_is_the_authors_file(self, tmp_path: Path) -> None:
        """From transformers' names, through transformers' own loader: the features that its class gives at 518."""
        from transformers import Dinov2Config, Dinov2Model

        small = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70}
        for gated in (False, True):
            config = Dinov2Config(**small, use_swiglu_ffn=gated)
            shapes = first_form(Dinov2Model(config).state_dict())
            state = checks.vit_state({name: tensor.shape for name, tensor in shapes.items()}, 3)
            reference, info = Dinov2Model.from_pretrained(
                None, config=config, state_dict=dict(state), output_loading_info=True
            )
            assert not info["missing_keys"]
            assert not info["unexpected_keys"]
            geometry = GEOMETRIES["vitg14" if gated else "vits14"]
            vit = build_vit({**geometry, "embed_dim": 48, "depth": 2, "num_heads": 2}, 70).eval()
            load_checked(vit, rename_dinov2(state), origin="hub")
            image = checks.images(70)
            with torch.no_grad():
                expected = reference.eval()(image).pooler_output
                torch.testing.assert_close(vit(image), expected, atol=1e-5, rtol=0)

    def test_a_file_is_read_whole(self, tmp_path: Path) -> None:
        """Seeded weights under published names, as the authors save them: half precision becomes single."""
        state = checks.vit_state({name: tensor.shape for name, tensor in read_keys("dinov2_vits14").items()}, 1)
        torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "file.pth")
        encoder = DINOv2Encoder("vits14", tmp_path / "file.pth")
        expected = {name: tensor.half().float() for name, tensor in fit_dinov2(state).items() if name != "pos_embed"}
        loaded = encoder.vit.state_dict()
        assert all(tensor.dtype == torch.float32 for tensor in loaded.values())
        assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())

    def test_timms_own_file_is_taken(self) -> None:
        with torch.device("meta"):
            theirs = create_model("vit_small_patch14_dinov2", num_classes=0)
            encoder = DINOv2Encoder("vits14", "random")
        load_checked(encoder.vit, fit_dinov2(theirs.state_dict()), origin="timm")

    def test_files_of_other_models_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "file.pth"
        registers = {"register_tokens": torch.zeros(1, 4, 384), "pos_embed": torch.zeros(1, 1370, 384)}
        checks.check_refusals(DINOv2Encoder, "vits14", path, registers, r"1 of 174 .* 1 unexpected.*register_tokens")
        other = {name: torch.zeros(1) for name in ("conv1.weight", "fc.weight")}
        checks.check_refusals(DINOv2Encoder, "vits14", path, other, "0 of 174 tensors match, 174 missing, 2 unexpected")


def first_form(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Transformers' names of release 5 as release 4, and the hub's files, have them."""
    words = {
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.down_proj": "mlp.weights_out",
    }
    renamed = {}
    for original, tensor in state.items():
        name = original
        for new, old in words.items():
            name = name.replace(new, old)
        if "mlp.gate_proj" in name:
            up = state[name.replace("gate_proj", "up_proj")]
            renamed[name.replace("gate_proj", "weights_in")] = torch.cat([tensor, up])
        elif "mlp.up_proj" not in name:
            renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("variant", ["vits14", "vitg14"])
def test_interface(variant: str) -> None:
    checks.check_interface(DINOv2Encoder, "dinov2", variant)


def test_variants() -> None:
    checks.check_variants(DINOv2Encoder, "dinov2")


@pytest.mark.parametrize("variant", ["vitb14", "vitg14"])
def test_lora(variant: str) -> None:
    checks.check_lora(DINOv2Encoder, "dinov2", variant)


def test_it_can_be_scripted() -> None:
    encoder = DINOv2Encoder("vits14", "tiny")
    image = checks.images(224)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(encoder)(image), encoder(image))
