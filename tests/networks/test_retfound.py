"""RETFound: published names with exactly decoder and loss heads left out, and the official code's features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import load_checked
from fairmedfm_monai.networks.encoders.retfound import GEOMETRIES, RETFoundEncoder, rename_retfound_dinov2
from fairmedfm_monai.networks.encoders.timm_vit import build_vit, rename_mae
from tests.networks import encoder_checks as checks
from tests.networks import parity
from tests.networks.test_keys import read_keys

DEPTH = 2  # blocks of the recording, at the published width
# The heads of the two losses of DINOv2's training, as its code names them.
HEADS = [
    f"{loss}_head.mlp.{layer}.{kind}" for loss in ("dino", "ibot") for layer in (0, 2, 4) for kind in ("weight", "bias")
]
HEADS += [f"{loss}_head.last_layer.weight_{part}" for loss in ("dino", "ibot") for part in "gv"]


def published(kind: str, seed: int) -> dict[str, Tensor]:
    name = {"mae": "retfound_mae_vit_l", "dinov2": "retfound_dinov2_vit_l"}[kind]
    return checks.vit_state(checks.first_blocks(read_keys(name), DEPTH), seed)


@torch.no_grad()
def ours(seed: int) -> dict[str, Tensor]:
    """The outputs that the recording holds, of our networks."""
    outputs = {}
    for kind, rename in (("mae", rename_mae), ("dinov2", rename_retfound_dinov2)):
        vit = build_vit({**GEOMETRIES[f"{kind}_meh"], "depth": DEPTH}, 224).eval()
        load_checked(vit, rename(published(kind, seed)), origin="seeded")
        outputs[kind] = vit(checks.images(224, seed))
    return outputs


def test_features_are_those_of_the_official_code() -> None:
    record = parity.read("retfound")
    parity.compare(record, ours(record["weight_seed"]), tolerance=1e-4)


class TestMae:
    def test_every_published_tensor_is_taken_but_those_of_the_decoder(self) -> None:
        keys = read_keys("retfound_mae_vit_l")
        with torch.device("meta"):
            encoder = RETFoundEncoder("mae_natureCFP", "random")
        kept = rename_mae(keys)
        load_checked(encoder.vit, kept, origin="mae")
        assert (len(keys), len(kept)) == (398, 294)
        left_out = set(keys) - set(kept)
        assert len(left_out) == 104
        assert all(name == "mask_token" or name.startswith("decoder_") for name in left_out)

    def test_a_file_without_decoder_is_taken_too(self) -> None:
        kept = rename_mae(read_keys("retfound_mae_vit_l"))
        assert rename_mae(kept) == kept


class TestDinov2:
    def test_every_published_tensor_is_taken_but_the_loss_heads(self) -> None:
        keys = read_keys("retfound_dinov2_vit_l")
        heads = {name: torch.empty(3, device="meta") for name in HEADS}
        with torch.device("meta"):
            encoder = RETFoundEncoder("dinov2_meh", "random")
        kept = rename_retfound_dinov2({**keys, **heads})
        load_checked(encoder.vit, kept, origin="dinov2")
        assert (len(keys), len(kept)) == (343, 342)

    def test_grouped_blocks_are_taken(self) -> None:
        keys = read_keys("retfound_dinov2_vit_l")
        grouped = {}
        for name, tensor in keys.items():
            number = int(name.split(".")[2]) if ".blocks." in name else 0
            grouped[name.replace("backbone.blocks.", f"backbone.blocks.{number // 6}.")] = tensor
        assert "backbone.blocks.3.23.norm1.weight" in grouped
        assert rename_retfound_dinov2(grouped).keys() == rename_retfound_dinov2(keys).keys()

    def test_other_heads_are_not_dropped(self) -> None:
        names = ("dino_head.weight", "ibot_head.mlp.0.scale", "head.weight", "backbone.dino_head.mlp.0.bias")
        kept = rename_retfound_dinov2({name: torch.zeros(1) for name in names})
        assert kept.keys() == {name.removeprefix("backbone.") for name in names}

    def test_a_table_of_518_pixels_is_resampled_by_the_ratio_of_the_sizes(self) -> None:
        """RETFound's own code does so, without the offset of DINOv2's."""
        table = checks.vit_state({"pos_embed": (1, 1370, 8)}, 0)["pos_embed"]
        patches = table[:, 1:].view(1, 37, 37, 8).permute(0, 3, 1, 2)
        expected = torch.nn.functional.interpolate(patches, size=(16, 16), mode="bicubic").flatten(2).transpose(1, 2)
        found = rename_retfound_dinov2({"backbone.pos_embed": table})["pos_embed"]
        torch.testing.assert_close(found[:, 1:], expected)


class TestFiles:
    """Two blocks in place of 24, so that files stay small; everything else is what the class does."""

    @pytest.fixture(autouse=True)
    def _shallow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for variant, geometry in list(GEOMETRIES.items()):
            monkeypatch.setitem(GEOMETRIES, variant, {**geometry, "depth": DEPTH})

    def test_the_masked_autoencoders_file_is_read(self, tmp_path: Path) -> None:
        state = published("mae", 1)
        torch.save({"model": state, "optimizer": {"state": {}}}, tmp_path / "file.pth")
        loaded = RETFoundEncoder("mae_meh", tmp_path / "file.pth").vit.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())

    def test_the_teacher_of_a_dinov2_file_is_read(self, tmp_path: Path) -> None:
        state = published("dinov2", 1)
        heads = {name: torch.zeros(3) for name in HEADS}
        torch.save({"teacher": {**state, **heads}}, tmp_path / "file.pth")
        loaded = RETFoundEncoder("dinov2_meh", tmp_path / "file.pth").vit.state_dict()
        assert all(torch.equal(tensor, state[f"backbone.{name}"]) for name, tensor in loaded.items())

    def test_the_files_of_one_another_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "file.pth"
        checks.check_refusals(RETFoundEncoder, "dinov2_meh", path, published("mae", 1), "is a checkpoint of another")
        checks.check_refusals(RETFoundEncoder, "mae_meh", path, published("dinov2", 1), "0 of 30 tensors match")

    def test_a_network_fine_tuned_with_mean_pooling_is_refused(self, tmp_path: Path) -> None:
        state = {"fc_norm.weight": torch.ones(1024)}
        checks.check_refusals(RETFoundEncoder, "mae_meh", tmp_path / "file.pth", state, "fine-tuned with mean pooling")


@pytest.mark.parametrize("variant", ["mae_natureCFP", "dinov2_shanghai"])
def test_interface(variant: str) -> None:
    checks.check_interface(RETFoundEncoder, "retfound", variant)


def test_variants() -> None:
    checks.check_variants(RETFoundEncoder, "retfound")


@pytest.mark.parametrize("variant", ["mae_natureOCT", "dinov2_meh"])
def test_lora(variant: str) -> None:
    checks.check_lora(RETFoundEncoder, "retfound", variant)
