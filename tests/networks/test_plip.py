"""PLIP: transformers' CLIPModel, the class that the hub names, on equal seeded weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.encoders import clip_towers
from fairmedfm_monai.networks.encoders.clip_towers import rename_fine_tuned, rename_hub_clip, shrink
from fairmedfm_monai.networks.encoders.plip import PLIPEncoder
from tests.networks import clip_checks as checks
from tests.networks import encoder_checks
from tests.networks.test_keys import read_keys


@torch.no_grad()
def test_both_embeddings_are_those_of_the_library_class_that_the_hub_names() -> None:
    """The whole network, through the mapping of the hub's 398 names."""
    from transformers import CLIPConfig, CLIPModel

    keys = read_keys("plip_hf")
    assert len(keys) == 398
    state = checks.clip_state(checks.shapes_of(keys), 21)
    reference = CLIPModel(CLIPConfig(text_config={"eos_token_id": 49407})).eval()
    reference.load_state_dict(state)
    encoder = PLIPEncoder("ViT-B-32", "random")
    load_checked(encoder, rename_fine_tuned(state), origin="hub")
    image, tokens = encoder_checks.images(224), encoder.token_numbers(checks.TEXTS)
    images, texts = encoder.encode_image(image), encoder.encode_text(checks.TEXTS)
    expected = reference(input_ids=tokens, pixel_values=image)
    pooled = reference.get_image_features(image).pooler_output
    torch.testing.assert_close(images["features"], pooled, atol=1e-5, rtol=0)
    torch.testing.assert_close(images["zero_shot"], expected.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(texts["zero_shot"], expected.text_embeds, atol=1e-5, rtol=0)
    logits = encoder.similarity(images, texts)
    torch.testing.assert_close(logits, expected.logits_per_image, atol=1e-5 * state["logit_scale"].exp().item(), rtol=0)


def test_gelu_would_be_wrong_and_silent() -> None:
    """The trap: the same weights fit open_clip's ``ViT-B-32``; QuickGELU must be the network's own."""
    state = PLIPEncoder("ViT-B-32", "tiny").state_dict()
    config = clip_towers.shrink(clip_towers.geometry_config("ViT-B-32"))
    plain = clip_towers.build_towers(config, seed=1).eval()
    load_checked(plain, state, origin="tiny")
    image = encoder_checks.images(224)
    with torch.no_grad():
        assert (plain.visual(image) - PLIPEncoder("ViT-B-32", "tiny")(image)).abs().max() > 1e-3


class TestNames:
    def test_the_mapping_is_one_to_one(self) -> None:
        keys = read_keys("plip_hf")
        renamed = rename_hub_clip(keys)
        assert checks.shapes_of(renamed) == checks.shapes_of(read_keys("clip_vitb32"))
        assert sum(tensor.numel() for tensor in renamed.values()) == sum(tensor.numel() for tensor in keys.values())

    def test_other_names_are_left_alone(self) -> None:
        state = {"visual.proj": torch.zeros(2, 3), "text.embeddings.position_ids": torch.zeros(1)}
        assert rename_hub_clip(state) is state


class TestFiles:
    @pytest.fixture
    def state(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
        """The hub's names of a small network, and that geometry for every file."""
        from transformers import CLIPConfig, CLIPModel

        real = clip_towers.geometry_config
        monkeypatch.setattr(clip_towers, "geometry_config", lambda name: shrink(real(name)))
        common = {"hidden_size": 64, "num_attention_heads": 2}
        vision = {**common, "intermediate_size": 128, "num_hidden_layers": 2, "patch_size": 56, "image_size": 224}
        text = {**common, "intermediate_size": 256, "num_hidden_layers": 1}
        model = CLIPModel(CLIPConfig(projection_dim=64, vision_config=vision, text_config=text))
        return checks.clip_state(checks.shapes_of(model.state_dict()), 4)

    @pytest.mark.parametrize("kind", ["safetensors", "bin"])
    def test_both_kinds_of_the_hub(self, state: dict[str, Tensor], tmp_path: Path, kind: str) -> None:
        path = tmp_path / f"plip.{kind}"
        if kind == "bin":
            for tower in ("vision", "text"):  # what releases before 4.31 stored
                state[f"{tower}_model.embeddings.position_ids"] = torch.arange(77)[None]
            torch.save(state, path)
        else:
            save_file(state, path)
        encoder = PLIPEncoder("ViT-B-32", path)
        assert torch.equal(encoder.visual.proj, state["visual_projection.weight"].T)
        query, key, value = encoder.visual.transformer.resblocks[1].attn.in_proj_weight.chunk(3)
        layer = "vision_model.encoder.layers.1.self_attn"
        for part, third in zip("qkv", (query, key, value), strict=True):
            assert torch.equal(third, state[f"{layer}.{part}_proj.weight"])

    def test_a_missing_third_and_a_missing_tower_are_told(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        del state["vision_model.encoder.layers.0.self_attn.k_proj.bias"]
        message = (
            r"0 missing, 0 unexpected, 1 of another shape.*resblocks.0.attn.in_proj_bias is \(128,\), not \(192,\)"
        )
        encoder_checks.check_refusals(PLIPEncoder, "ViT-B-32", tmp_path / "file.bin", state, message)
        images = {name: tensor for name, tensor in state.items() if name.startswith("vision_model.")}
        message = "missing: .*logit_scale"
        encoder_checks.check_refusals(PLIPEncoder, "ViT-B-32", tmp_path / "file.bin", images, message)

    def test_the_folder_and_the_page_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path))
        monkeypatch.setenv("FAIRMEDFM_OFFLINE", "1")
        with pytest.raises(WeightsError, match=r"put plip.safetensors \(or plip.bin\) into .*vinid/plip"):
            PLIPEncoder()


def test_interface() -> None:
    checks.check_interface(PLIPEncoder, "plip", "ViT-B-32")


def test_variants() -> None:
    encoder_checks.check_variants(PLIPEncoder, "plip")


def test_zero_shot() -> None:
    checks.check_zero_shot(PLIPEncoder, "ViT-B-32")


def test_lora() -> None:
    checks.check_lora(PLIPEncoder, "plip", "ViT-B-32", depth=12)
