"""PubMedCLIP: OpenAI's code, which its files load into, and the forms of files that are published."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.encoders import clip_towers
from fairmedfm_monai.networks.encoders.clip_towers import rename_fine_tuned, shrink
from fairmedfm_monai.networks.encoders.pubmedclip import PubMedCLIPEncoder
from fairmedfm_monai.usages import lora
from fairmedfm_monai.usages.linear_probe import LinearProbe
from tests.networks import clip_checks as checks
from tests.networks import encoder_checks, parity
from tests.networks.test_keys import read_keys

KEYS = {"clip_vitb32": ("ViT-B-32", 302), "clip_rn50": ("RN50", 489), "clip_rn50x4": ("RN50x4", 669)}


@torch.no_grad()
def test_parity_of_all_variants_with_openais_code() -> None:
    record = parity.read("pubmedclip")
    assert record["texts"] == list(checks.TEXTS)
    seed, found = record["weight_seed"], {}
    for name, (variant, _) in KEYS.items():
        encoder = PubMedCLIPEncoder(variant, "random")
        state = checks.clip_state(checks.shapes_of(read_keys(name)), seed)
        load_checked(encoder, rename_fine_tuned(state), origin=name)
        size = encoder.input_spec.size
        image = encoder.encode_image(parity.seeded_input((2, 3, size, size), seed, low=-2, high=2))
        text = encoder.text(encoder.token_numbers(checks.TEXTS))
        scale = state["logit_scale"].exp()
        cosines = image["zero_shot"] @ encoder.encode_text(checks.TEXTS)["zero_shot"].T
        found |= {
            f"{variant} features": image["features"],
            f"{variant} text": text,
            f"{variant} logits": scale * cosines,
        }
    parity.compare(record, found, tolerance=1e-4)


@pytest.mark.parametrize("name", KEYS)
def test_every_published_tensor_is_taken(name: str) -> None:
    variant, count = KEYS[name]
    keys = read_keys(name)
    assert len(keys) == count
    with torch.device("meta"):
        encoder = PubMedCLIPEncoder(variant, "random")
    load_checked(encoder, rename_fine_tuned(keys), origin=name)
    assert len(encoder.state_dict()) == count


def test_every_tensor_of_the_hub_form_is_taken() -> None:
    keys = read_keys("pubmedclip_hf")
    assert len(keys) == 398
    with torch.device("meta"):
        encoder = PubMedCLIPEncoder("ViT-B-32", "random")
        load_checked(encoder, rename_fine_tuned(keys), origin="hub")


def test_logits_carry_the_authors_factor() -> None:
    encoder = PubMedCLIPEncoder("ViT-B-32", "tiny")
    scale, bias = encoder.logit_terms()
    assert scale.item() == pytest.approx(math.exp(0.01) / math.exp(0.07) / 0.07, rel=1e-6)
    assert bias.item() == 0


class TestFiles:
    @pytest.fixture
    def state(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
        """OpenAI's names of a small network, and that geometry for every file."""
        real = clip_towers.geometry_config
        monkeypatch.setattr(clip_towers, "geometry_config", lambda name: shrink(real(name)))
        shapes = checks.shapes_of(PubMedCLIPEncoder("ViT-B-32", "random").state_dict())
        named = {name.removeprefix("text."): shape for name, shape in shapes.items()}
        return checks.clip_state(named, 3)

    def test_the_authors_training_file_of_half_precision(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        half = {name: tensor.half() for name, tensor in state.items()}
        content = {"best_epoch": 7, "state_dict": half, "optimizer_state_dict": {"state": {}}, "best_loss": 0.5}
        torch.save(content, tmp_path / "PubMedCLIP_ViT32.pth")
        encoder = PubMedCLIPEncoder("ViT-B-32", tmp_path / "PubMedCLIP_ViT32.pth")
        assert {tensor.dtype for tensor in encoder.state_dict().values()} == {torch.float32}
        torch.testing.assert_close(encoder.visual.proj, state["visual.proj"], atol=1e-3, rtol=1e-3)

    def test_it_is_found_by_the_authors_name(
        self, state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path))
        monkeypatch.setenv("FAIRMEDFM_OFFLINE", "1")
        with pytest.raises(WeightsError, match=r"put PubMedCLIP_ViT32.pth .*sarahESL/PubMedCLIP"):
            PubMedCLIPEncoder()
        (tmp_path / "weights").mkdir()
        checks.saved(state, tmp_path / "weights" / "PubMedCLIP_ViT32.pth")
        assert torch.equal(PubMedCLIPEncoder().visual.proj, state["visual.proj"])

    def test_files_of_other_models_are_refused_with_counts(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        path = checks.saved(state, tmp_path / "file.pth")
        with pytest.raises(WeightsError, match=r"another model than PubMedCLIPEncoder: .* missing, .* unexpected"):
            PubMedCLIPEncoder("RN50", path)
        del state["visual.ln_post.bias"]
        with pytest.raises(WeightsError, match=r"1 missing, 0 unexpected, 0 of another shape.*visual.ln_post.bias"):
            PubMedCLIPEncoder("ViT-B-32", checks.saved(state, tmp_path / "file.pth"))


@pytest.mark.parametrize("variant", ["ViT-B-32", "RN50", "RN50x4"])
def test_interface(variant: str) -> None:
    checks.check_interface(PubMedCLIPEncoder, "pubmedclip", variant)


def test_variants() -> None:
    encoder_checks.check_variants(PubMedCLIPEncoder, "pubmedclip")


def test_zero_shot() -> None:
    checks.check_zero_shot(PubMedCLIPEncoder, "ViT-B-32")


def test_lora() -> None:
    checks.check_lora(PubMedCLIPEncoder, "pubmedclip", "ViT-B-32", depth=12)


def test_lora_of_a_residual_network_says_what_is_missing() -> None:
    model = LinearProbe(PubMedCLIPEncoder("RN50", "tiny"), 2)
    with pytest.raises(ValueError, match="nothing in the encoder is called c_fc; layers there are"):
        lora.add_lora(model, rank=2, alpha=4, dropout=0.0, target_modules=["c_fc", "c_proj"])


def test_prompts_that_are_cut_are_counted() -> None:
    with pytest.warns(UserWarning, match="1 of 2 prompts are longer than PubMedCLIP's 77 tokens"):
        PubMedCLIPEncoder("ViT-B-32", "tiny").encode_text(["short", "the " * 76])
