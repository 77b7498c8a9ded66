"""RAD-DINO: the hub's names, and the features of transformers' own class on equal weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fairmedfm_monai.networks.checkpoint import load_checked
from fairmedfm_monai.networks.encoders.dinov2 import GEOMETRIES, rename_dinov2
from fairmedfm_monai.networks.encoders.rad_dino import RadDinoEncoder
from fairmedfm_monai.networks.encoders.timm_vit import build_vit
from tests.networks import encoder_checks as checks
from tests.networks.test_keys import read_keys

DEPTH = 2  # blocks of the comparison


def test_features_are_those_of_the_library_class_that_the_hub_names() -> None:
    """Two blocks of the published width at 518 pixels, loaded by transformers' own renaming of the hub's names."""
    from transformers import Dinov2Config, Dinov2Model

    state = checks.vit_state(checks.first_blocks(read_keys("rad_dino_hub4x"), DEPTH), 0)
    config = Dinov2Config(image_size=518, num_hidden_layers=DEPTH)
    reference, info = Dinov2Model.from_pretrained(None, config=config, state_dict=dict(state), output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    vit = build_vit({**GEOMETRIES["vitb14"], "depth": DEPTH}, 518).eval()
    load_checked(vit, rename_dinov2(state), origin="hub")
    image = checks.images(518, count=1)
    with torch.no_grad():
        torch.testing.assert_close(vit(image), reference.eval()(image).pooler_output, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["rad_dino_hub4x", "dinov2_vitb14"])  # the hub has a file of each kind
def test_every_published_tensor_is_taken_but_the_mask_token(name: str) -> None:
    keys = read_keys(name)
    with torch.device("meta"):
        encoder = RadDinoEncoder("vitb14", "random")
    load_checked(encoder.vit, rename_dinov2(keys), origin=name)
    assert len(encoder.vit.state_dict()) == 174


def test_a_missing_third_and_another_table_are_told(tmp_path: Path) -> None:
    keys = read_keys("rad_dino_hub4x")
    state = {name: torch.zeros(tensor.shape, dtype=torch.float16) for name, tensor in keys.items()}
    state["embeddings.position_embeddings"] = state["embeddings.position_embeddings"][:, :257]
    del state["encoder.layer.3.attention.attention.key.bias"]
    message = r"172 of 174 .*pos_embed is \(1, 257, 768\).*blocks.3.attn.qkv.bias is \(1536,\), not \(2304,\)"
    checks.check_refusals(RadDinoEncoder, "vitb14", tmp_path / "file.pth", state, message)


def test_interface() -> None:
    checks.check_interface(RadDinoEncoder, "rad_dino", "vitb14")


def test_variants() -> None:
    checks.check_variants(RadDinoEncoder, "rad_dino")


def test_lora() -> None:
    checks.check_lora(RadDinoEncoder, "rad_dino", "vitb14")
