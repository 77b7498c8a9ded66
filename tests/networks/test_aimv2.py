"""AIMv2: published names, and the features of the official code and of transformers' class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm import create_model
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import load_checked
from fairmedfm_monai.networks.encoders.aimv2 import GEOMETRIES, AIMv2Encoder, rename_aimv2
from fairmedfm_monai.networks.encoders.timm_vit import build_vit
from tests.networks import encoder_checks as checks
from tests.networks import parity
from tests.networks.test_keys import read_keys

VARIANT = "large_patch14_224"
DEPTH = 2  # blocks of the comparisons, at the published width
KEYS = "aimv2_large_patch14_224"


@torch.no_grad()
def features(state: dict[str, Tensor], image: Tensor) -> Tensor:
    vit = build_vit({**GEOMETRIES[VARIANT], "depth": DEPTH}, 224).eval()
    load_checked(vit, rename_aimv2(state), origin="seeded")
    return vit(image)


def ours(seed: int) -> dict[str, Tensor]:
    """The outputs that the recording holds, of our network."""
    state = checks.vit_state(checks.first_blocks(read_keys(KEYS), DEPTH), seed)
    return {"features": features(state, checks.images(224, seed))}


def test_features_are_those_of_the_official_code() -> None:
    record = parity.read("aimv2")
    parity.compare(record, ours(record["weight_seed"]), tolerance=1e-4)


def test_features_are_those_of_transformers_class_without_its_head() -> None:
    """Its default would add a pooling head, which the published encoder does not have."""
    from transformers import Aimv2VisionConfig, Aimv2VisionModel

    reference = Aimv2VisionModel(Aimv2VisionConfig(use_head=False, num_hidden_layers=DEPTH)).eval()
    state = checks.vit_state({name: tensor.shape for name, tensor in reference.state_dict().items()}, 2)
    reference.load_state_dict(state)
    image = checks.images(224)
    with torch.no_grad():
        expected = reference(image).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(features(state, image), expected, atol=2e-5, rtol=0)


def test_every_published_tensor_is_taken() -> None:
    keys = read_keys(KEYS)
    with torch.device("meta"):
        encoder = AIMv2Encoder(VARIANT, "random")
        timms = create_model(KEYS, num_classes=0).state_dict()
    for state in (keys, timms):
        load_checked(encoder.vit, rename_aimv2(state), origin=KEYS)
    assert len(keys) == len(encoder.vit.state_dict()) == 173


def test_files_of_other_models_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GEOMETRIES, VARIANT, {**GEOMETRIES[VARIANT], "depth": DEPTH})
    with_head = {name: torch.zeros(1) for name in ("trunk.norm", "head.cls_token", "preprocessor.pos_embed")}
    message = r"0 of 19 .*18 missing, 2 unexpected, 1 of another shape.*head.cls_token"
    checks.check_refusals(AIMv2Encoder, VARIANT, tmp_path / "file.pth", with_head, message)


def test_interface() -> None:
    checks.check_interface(AIMv2Encoder, "aimv2", VARIANT)


def test_variants() -> None:
    checks.check_variants(AIMv2Encoder, "aimv2")


def test_lora() -> None:
    checks.check_lora(AIMv2Encoder, "aimv2", VARIANT)
